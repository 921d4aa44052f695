// One training run, from the flags to the last checkpoint.
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "data/interrupt.h"
#include "engine/checkpoint.h"
#include "engine/schedule.h"
#include "model/trainer.h"
#include "tools/text_generation.h"
#include "tools/train_data.h"
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
      : length_(std::size_t(length)), ids_(std::size_t(rows * length), 0), targets_(ids_.size(), -1) {}
  void clear();                                                                // no row counts
  std::span<std::int32_t> ids(std::int64_t row) { return row_of(ids_, row); }  // to be filled in
  std::span<std::int32_t> targets(std::int64_t row) { return row_of(targets_, row); }
  model::MicroBatch view() const { return {ids_, targets_}; }  // of this object's memory

 private:
  std::span<std::int32_t> row_of(std::vector<std::int32_t>& all, std::int64_t row) const {
    return std::span(all).subspan(std::size_t(row) * length_, length_);
  }

  std::size_t length_;
  std::vector<std::int32_t> ids_, targets_;
};

class TrainRun {
 public:
  // Plans everything and touches no memory yet. `flags` are complete (see resolve()); without
  // `resumed` it is a new run.
  TrainRun(TrainFlags flags, const model::GptConfig& config, TokenFiles files,
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
  bool evaluates() const noexcept { return flags_.eval_every > 0 && data_.validation_targets() > 0; }
  std::int64_t step_windows() const noexcept { return flags_.accumulation * flags_.batch; }
  // After step `step`, which may be one of those under way: how often as many windows were read as there are.
  std::int64_t epoch_at(std::int64_t step) const noexcept {
    const std::int64_t later = (state_.step - step) * step_windows();
    return std::int64_t((state_.next_sample - std::uint64_t(later)) / data_.training().whole());
  }
  engine::CheckpointParts parts(bool with_optimizer) const;

  TrainFlags flags_;
  TrainData data_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  Prompt prompt_;  // of the samples
  engine::Stream stream_;
  engine::ParamStore store_;
  model::Gpt gpt_;
  std::optional<engine::AdamW> optimizer_;
  std::optional<model::Trainer> trainer_;
  std::optional<model::Generator> generator_;  // where samples are drawn
  std::vector<WindowBatch> batches_;           // of a step; an evaluation uses the first
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
