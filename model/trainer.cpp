#include "model/trainer.h"

#include <algorithm>
#include <stdexcept>

namespace model {

using engine::DType;
using engine::Tape;
using engine::Tensor;

namespace {

std::int64_t counted(std::span<const std::int32_t> targets) {
  return std::count_if(targets.begin(), targets.end(), [](std::int32_t t) { return t >= 0; });
}

}  // namespace

Trainer::Trainer(const Gpt& gpt, engine::ParamStore& store, engine::AdamW& optimizer, engine::Stream& stream,
                 std::int64_t batch, std::int64_t length)
    : gpt_(gpt),
      store_(store),
      optimizer_(optimizer),
      stream_(stream),
      batch_(batch),
      length_(length),
      arena_(stream.device()),
      context_{stream, arena_} {
  const engine::Shape rows{batch * length};
  ids_ = Tensor::persistent(stream.device(), rows, DType::i32);
  targets_ = Tensor::persistent(stream.device(), rows, DType::i32);
  forward(true, 1);
  forward(false, 1);
  store_.begin_step();
  arena_.commit();
}

void Trainer::upload(const MicroBatch& batch) {
  const std::size_t rows = std::size_t(batch_ * length_);
  if (batch.ids.size() != rows || batch.targets.size() != rows)
    throw std::logic_error("trainer: a micro-batch of another size");
  stream_.copy(ids_.data(), batch.ids.data(), batch.ids.size_bytes());
  stream_.copy(targets_.data(), batch.targets.data(), batch.targets.size_bytes());
}

// A rehearsal (before commit) returns nothing: there are no numbers yet.
LossSum Trainer::forward(bool training, float grad_scale) {
  Tape tape(context_, training ? Tape::Mode::train : Tape::Mode::infer);
  const Tensor losses = gpt_.losses(tape, ids_, targets_, batch_, grad_scale);
  LossSum sum;
  if (arena_.committed())
    for (float loss : losses.to_host(stream_)) sum.sum += double(loss);
  if (training) tape.backward(losses);
  return sum;
}

LossSum Trainer::step(std::span<const MicroBatch> batches, std::int64_t step, double learning_rate) {
  LossSum total;
  for (const auto& batch : batches) total.targets += counted(batch.targets);
  store_.begin_step();
  for (const auto& batch : batches) {
    upload(batch);
    total.sum += forward(true, 1.f / float(std::max<std::int64_t>(total.targets, 1))).sum;
  }
  optimizer_.step(context_, step, learning_rate);
  return total;
}

LossSum Trainer::evaluate(const MicroBatch& batch) {
  upload(batch);
  LossSum sum = forward(false, 0);
  sum.targets = counted(batch.targets);
  return sum;
}

}  // namespace model
