// One training run, from the flags to the last checkpoint.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "data/interrupt.h"
#include "data/token_file.h"
#include "data/windows.h"
#include "engine/checkpoint.h"
#include "engine/schedule.h"
#include "model/trainer.h"
#include "tools/train_flags.h"
#include "tools/train_log.h"
#include "tools/train_state.h"

namespace tools {

struct Resumed {  // a checkpoint to continue from, and what its state says
  std::unique_ptr<engine::Checkpoint> checkpoint;
  SavedState saved;
};

// The inputs and targets [rows, length] of several windows, one after the other.
class WindowBatch {
 public:
  WindowBatch(std::int64_t rows, std::int64_t length)
      : ids_(std::size_t(rows * length), 0), targets_(std::size_t(rows * length), -1) {}
  void clear();  // no row counts
  void read(const data::Windows&, std::uint64_t window, std::int64_t row);
  model::MicroBatch view() const { return {ids_, targets_}; }  // of this object's memory

 private:
  std::vector<std::int32_t> ids_, targets_;
};

class TrainRun {
 public:
  // Plans everything and touches no memory yet. `flags` are complete (see resolve()); without
  // `resumed` it is a new run.
  TrainRun(TrainFlags flags, const model::GptConfig& config, std::unique_ptr<data::TokenFile> data,
           std::optional<Resumed> resumed);
  // Prints what a run would be (--memory, --dry-run).
  void print_plan() const { print_opening(); }
  // Trains to the end, or until a signal, --stop-at or --max-minutes. Returns the exit code.
  int run(const data::Interrupt&);

 private:
  void begin();  // start values or the checkpoint's, and the log
  void load(const Resumed&);
  void load_weights(const std::string& path);
  int train(const data::Interrupt&);  // the loop; returns the exit code
  void print_opening() const;
  void print_memory() const;
  std::string precision() const;  // and why
  void submit_step();
  void finish_step();
  void print_profile();
  void handle_nonfinite(std::int64_t step, double loss, double norm);
  void evaluate(const data::Interrupt&);  // one that a signal interrupts is due once more
  void save();                            // the checkpoint, and the history before it
  void sample();
  bool due(std::int64_t every) const noexcept { return every > 0 && state_.step % every == 0; }
  bool finished() const noexcept { return state_.step >= flags_.steps; }
  bool evaluates() const noexcept { return flags_.eval_every > 0 && validation_.targets() > 0; }
  // After step `step`, which may be one of those under way.
  std::int64_t epoch_at(std::int64_t step) const noexcept {
    const std::int64_t later = (state_.step - step) * flags_.accumulation * flags_.batch;
    return std::int64_t((state_.next_sample - std::uint64_t(later)) / train_.whole());
  }
  engine::CheckpointParts parts(bool with_optimizer) const;

  TrainFlags flags_;
  std::unique_ptr<data::TokenFile> data_, validation_data_;
  data::Windows train_, validation_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  engine::Stream stream_;
  engine::ParamStore store_;
  model::Gpt gpt_;
  std::optional<engine::AdamW> optimizer_;
  std::optional<model::Trainer> trainer_;
  std::vector<WindowBatch> batches_;  // of a step; an evaluation uses the first
  std::vector<model::MicroBatch> micro_batches_;
  engine::Schedule schedule_;
  std::optional<Resumed> resumed_;
  TrainState state_;
  bool saved_ = false;                                 // the checkpoint on the disk is of `state_`
  std::optional<engine::Profile> profile_;             // of the steps that --profile names
  std::chrono::steady_clock::time_point last_finish_;  // of a step, or when the first was queued
  std::optional<TrainLog> log_;
};

}  // namespace tools
