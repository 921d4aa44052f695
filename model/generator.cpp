#include "model/generator.h"

namespace model {

using engine::Tape;
using engine::Tensor;

namespace {

// Lengths are rounded up to this, so that one plan serves many tokens. What lies behind the last token
// changes nothing before it: attention is causal.
constexpr std::int64_t kLengthStep = 64;

}  // namespace

void Generator::reserve(std::int64_t length) {
  length = (length + kLengthStep - 1) / kLengthStep * kLengthStep;
  if (length == length_) return;
  length_ = length;
  arena_ = std::make_unique<engine::Arena>(stream_.device());
  ids_ = Tensor::persistent(stream_.device(), {length}, engine::DType::i32);
  {
    engine::Context context{stream_, *arena_};
    Tape tape(context, Tape::Mode::infer);
    gpt_.logits(tape, gpt_.hidden(tape, ids_, 1).slice(0, {1, gpt_.config().width}));
  }
  arena_->commit();
}

const std::vector<float>& Generator::logits_after(const std::vector<std::int32_t>& tokens) {
  const auto count = std::int64_t(tokens.size());
  reserve(count);
  stream_.copy(ids_.data(), tokens.data(), tokens.size() * sizeof(std::int32_t));
  engine::Context context{stream_, *arena_};
  Tape tape(context, Tape::Mode::infer);
  const std::int64_t width = gpt_.config().width;
  const Tensor last = gpt_.hidden(tape, ids_, 1).slice((count - 1) * width, {1, width});
  logits_ = gpt_.logits(tape, last).to_host(stream_);
  logits_.resize(std::size_t(gpt_.config().vocab));
  return logits_;
}

}  // namespace model
