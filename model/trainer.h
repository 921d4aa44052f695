// One training step and one evaluation batch over fixed shapes, in memory that was planned before the first
// step.
#pragma once
#include <cstdint>
#include <deque>
#include <span>

#include "engine/optimizer.h"
#include "model/gpt.h"

namespace model {

struct MicroBatch {  // ids and targets [batch * length]; negative targets are not counted
  std::span<const std::int32_t> ids, targets;
};

struct LossSum {
  double sum = 0;  // nats
  std::int64_t targets = 0;
  double mean() const noexcept { return targets == 0 ? 0 : sum / double(targets); }
};

struct StepResult {
  LossSum loss;          // over all targets of the step
  double grad_norm = 0;  // before clipping
};

struct StepSizes {
  std::int64_t batch, length;      // of a micro-batch
  std::int64_t micro_batches = 1;  // of a step, at most
};

class Trainer {
 public:
  // Rehearses a step and an evaluation, then allocates exactly what the larger needs.
  Trainer(const Gpt&, engine::ParamStore&, engine::AdamW&, engine::Stream&, const StepSizes&);

  // Queues the forward and backward passes of every micro-batch and one update; the gradient is that of the
  // mean over all targets. At most two steps may be under way before the first is finish()ed.
  void submit(std::span<const MicroBatch>, std::int64_t step, double learning_rate);
  StepResult finish();  // of the earliest step under way; waits
  StepResult step(std::span<const MicroBatch>, std::int64_t step, double learning_rate);
  std::size_t under_way() const noexcept { return under_way_.size(); }
  // Forward only; the parameters and gradients are not touched. No step may be under way.
  LossSum evaluate(const MicroBatch&);

  std::size_t activation_bytes() const noexcept { return arena_.peak(); }
  void measure(engine::Profile* profile) noexcept { context_.profile = profile; }  // null: stop
  void check(bool on) noexcept { context_.checks = on; }                           // engine::Context::checks
  void use_graphs(bool use) noexcept { graphs_ = use; }  // on a card a step is one launch, unless told not to
  const StepSizes& sizes() const noexcept { return sizes_; }

 private:
  // What goes to the device before a step and comes back after it, in memory that the copies can use while
  // the host goes on. Two, so that one step can be prepared while another runs.
  struct Exchange {
    explicit Exchange(engine::Device device) : uploaded(device), done(device) {}
    std::shared_ptr<std::byte> ids, targets, scalars, losses, sum_of_squares;
    engine::Tensor arrived_ids, arrived_targets;  // on the device, until the step's turn comes
    engine::Event uploaded, done;                 // have arrived there; the copies back have arrived
  };
  struct UnderWay {
    std::size_t exchange;
    std::size_t micro_batches;
    std::int64_t targets;
  };
  std::int64_t rows() const noexcept { return sizes_.batch * sizes_.length; }
  void upload(std::span<const MicroBatch>, Exchange&);
  void run_micro_batch(std::int64_t index, bool training, float grad_scale);
  void perform(engine::Graph&, const std::function<void()>& work);
  double loss_sum(const Exchange&, std::size_t micro_batches) const;

  const Gpt& gpt_;
  engine::ParamStore& store_;
  engine::AdamW& optimizer_;
  engine::Stream& stream_;
  engine::Stream uploads_;  // brings a step's tokens while the one before runs
  StepSizes sizes_;
  engine::Arena arena_;
  engine::Context context_;
  engine::Tensor ids_, targets_, losses_;  // persistent: [micro-batches * rows]
  std::vector<Exchange> exchanges_;
  std::size_t next_exchange_ = 0;
  std::deque<UnderWay> under_way_;
  bool graphs_ = true;
  engine::Graph step_graph_, evaluation_graph_;
  std::size_t recorded_micro_batches_ = 0;  // what step_graph_ holds
  float recorded_scale_ = 0;
};

}  // namespace model
