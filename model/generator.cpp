#include "model/generator.h"

#include <optional>

#include "engine/error.h"

namespace model {

using engine::Tape;
using engine::Tensor;

namespace {

// Lengths are rounded up to this, so that one plan serves many tokens. What lies behind the last token
// changes nothing before it: attention is causal.
constexpr std::int64_t kLengthStep = 64;

}  // namespace

Generator::Generator(const Gpt& gpt, engine::Stream& stream, std::int64_t samples, std::int64_t capacity,
                     const SamplerConfig& sampler, std::uint64_t seed, std::int32_t banned)
    : gpt_(gpt), stream_(stream), capacity_(capacity), banned_(banned), tokens_(std::size_t(samples)) {
  for (std::int64_t i = 0; i < samples; i++) samplers_.emplace_back(sampler, seed + std::uint64_t(i));
}

void Generator::start(std::span<const std::int32_t> tokens) {
  for (auto& held : tokens_) held.clear();
  length_ = 0;
  read(tokens);
}

void Generator::read(std::span<const std::int32_t> tokens) {
  length_ += std::int64_t(tokens.size());
  engine::require(length_ <= capacity_, engine::Exit::failure, "{} tokens, room for {}", length_, capacity_);
  for (auto& held : tokens_) held.insert(held.end(), tokens.begin(), tokens.end());
}

const std::vector<std::int32_t>& Generator::draw() {
  const auto vocab = std::size_t(gpt_.config().vocab);
  const std::vector<float> rows = logits();
  drawn_.clear();
  for (std::size_t i = 0; i < tokens_.size(); i++) {
    const auto banned = banned_ >= 0 ? std::optional(banned_) : std::nullopt;
    drawn_.push_back(
        samplers_[i].next(std::span(rows).subspan(i * vocab, vocab), tokens_[i], tokens_[i].size(), banned));
    tokens_[i].push_back(drawn_.back());
  }
  length_++;
  return drawn_;
}

void Generator::reserve(std::int64_t length) {
  length = (length + kLengthStep - 1) / kLengthStep * kLengthStep;
  if (length == planned_) return;
  planned_ = length;
  arena_ = std::make_unique<engine::Arena>(stream_.device());
  ids_ = Tensor::persistent(stream_.device(), {length}, engine::DType::i32);
  {
    engine::Context context{stream_, *arena_};
    Tape tape(context, Tape::Mode::infer);
    gpt_.logits(tape, gpt_.hidden(tape, ids_, 1).slice(0, {1, gpt_.config().width}));
  }
  arena_->commit();
}

std::vector<float> Generator::logits() {
  reserve(length_);
  const std::int64_t width = gpt_.config().width;
  std::vector<float> all;
  for (const auto& held : tokens_) {
    stream_.copy(ids_.data(), held.data(), held.size() * sizeof(std::int32_t));
    engine::Context context{stream_, *arena_};
    Tape tape(context, Tape::Mode::infer);
    const Tensor last = gpt_.hidden(tape, ids_, 1).slice((length_ - 1) * width, {1, width});
    const std::vector<float> row = gpt_.logits(tape, last).to_host(stream_);
    all.insert(all.end(), row.begin(), row.begin() + gpt_.config().vocab);
  }
  return all;
}

}  // namespace model
