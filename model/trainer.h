// One training step and one evaluation batch over fixed shapes, in memory that was planned before the first
// step.
#pragma once
#include <cstdint>
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

class Trainer {
 public:
  // Rehearses a step and an evaluation, then allocates exactly what the larger needs.
  Trainer(const Gpt&, engine::ParamStore&, engine::AdamW&, engine::Stream&, std::int64_t batch,
          std::int64_t length);

  // Forward and backward of every micro-batch, then one update. The loss is the mean over all targets of the
  // step.
  LossSum step(std::span<const MicroBatch>, std::int64_t step, double learning_rate);
  // Forward only; the parameters and gradients are not touched.
  LossSum evaluate(const MicroBatch&);
  std::size_t activation_bytes() const noexcept { return arena_.peak(); }
  void measure(engine::Profile* profile) noexcept { context_.profile = profile; }  // null: stop
  std::int64_t batch() const noexcept { return batch_; }
  std::int64_t length() const noexcept { return length_; }

 private:
  void upload(const MicroBatch&);
  LossSum forward(bool training, float grad_scale);

  const Gpt& gpt_;
  engine::ParamStore& store_;
  engine::AdamW& optimizer_;
  engine::Stream& stream_;
  std::int64_t batch_, length_;
  engine::Arena arena_;
  engine::Context context_;
  engine::Tensor ids_, targets_;  // persistent: [batch * length]
};

}  // namespace model
