#include "model/generator.h"

#include <optional>

#include "engine/error.h"

namespace model {

using engine::Tape;
using engine::Tensor;

Generator::Generator(const Gpt& gpt, engine::Stream& stream, std::int64_t samples, std::int64_t capacity,
                     const SamplerConfig& sampler, std::uint64_t seed, std::int32_t banned)
    : gpt_(gpt),
      stream_(stream),
      samples_(samples),
      capacity_(capacity),
      banned_(banned),
      tokens_(std::size_t(samples)),
      caches_(gpt.make_caches(stream.device(), samples, capacity)),
      ids_(Tensor::persistent(stream.device(), {samples}, engine::DType::i32)),
      logits_(
          Tensor::persistent(stream.device(), {samples, gpt.config().padded_vocab()}, engine::DType::f32)),
      arena_(std::make_unique<engine::Arena>(stream.device())) {
  for (std::int64_t i = 0; i < samples; i++) samplers_.emplace_back(sampler, seed + std::uint64_t(i));
  step();
  arena_->commit();
  engine::Context context{stream_, *arena_};
  Tape tape(context, Tape::Mode::infer);
  gpt_.fill_table(tape, caches_);
}

void Generator::start(std::span<const std::int32_t> tokens) {
  length_ = std::int64_t(tokens.size());
  engine::require(length_ > 0 && length_ <= capacity_, engine::Exit::failure, "{} tokens, room for 1 to {}",
                  length_, capacity_);
  for (auto& held : tokens_) held.assign(tokens.begin(), tokens.end());
  const Tensor ids = Tensor::persistent(stream_.device(), {length_}, engine::DType::i32);
  stream_.copy(ids.data(), tokens.data(), tokens.size_bytes());
  engine::Arena arena(stream_.device());
  const std::int64_t width = gpt_.config().width, row = gpt_.config().padded_vocab();
  const auto read_all = [&] {
    engine::Context context{stream_, arena};
    Tape tape(context, Tape::Mode::infer);
    const Tensor last = gpt_.hidden(tape, ids, 1, &caches_).slice((length_ - 1) * width, {1, width});
    gpt_.logits(tape, last, logits_.slice(0, {1, row}));
  };
  read_all();
  arena.commit();
  read_all();
  for (std::int64_t i = 1; i < samples_; i++) {
    const Tensor to = logits_.slice(i * row, {1, row});
    stream_.copy(to.data(), logits_.data(), to.bytes());
  }
  stream_.wait();
  unread_ = false;
}

void Generator::step() {
  engine::Context context{stream_, *arena_};
  Tape tape(context, Tape::Mode::step);
  gpt_.logits(tape, gpt_.hidden_step(tape, ids_, caches_), logits_);
}

void Generator::catch_up() {
  if (!unread_) return;
  const std::vector<std::int32_t> positions(std::size_t(samples_), std::int32_t(length_ - 1));
  std::vector<std::int32_t> newest;
  for (const auto& held : tokens_) newest.push_back(held.back());
  stream_.copy(caches_.places.positions.data(), positions.data(), positions.size() * sizeof(std::int32_t));
  stream_.copy(ids_.data(), newest.data(), newest.size() * sizeof(std::int32_t));
  graph_.run(stream_, [this] { step(); });
  unread_ = false;
}

void Generator::read(std::span<const std::int32_t> tokens) {
  for (std::int32_t token : tokens) {
    catch_up();
    engine::require(length_ < capacity_, engine::Exit::failure, "{} tokens, room for {}", length_ + 1,
                    capacity_);
    for (auto& held : tokens_) held.push_back(token);
    length_++;
    unread_ = true;
  }
}

const std::vector<std::int32_t>& Generator::draw() {
  const auto vocab = std::size_t(gpt_.config().vocab);
  const std::vector<float> rows = logits();
  drawn_.clear();
  engine::require(length_ < capacity_, engine::Exit::failure, "{} tokens, room for {}", length_ + 1,
                  capacity_);
  for (std::size_t i = 0; i < tokens_.size(); i++) {
    const auto banned = banned_ >= 0 ? std::optional(banned_) : std::nullopt;
    drawn_.push_back(
        samplers_[i].next(std::span(rows).subspan(i * vocab, vocab), tokens_[i], tokens_[i].size(), banned));
    tokens_[i].push_back(drawn_.back());
  }
  length_++;
  unread_ = true;
  return drawn_;
}

std::vector<float> Generator::logits() {
  catch_up();
  const std::vector<float> padded = logits_.to_host(stream_);
  const auto row = std::ptrdiff_t(gpt_.config().padded_vocab()), vocab = std::ptrdiff_t(gpt_.config().vocab);
  std::vector<float> rows;
  for (std::ptrdiff_t i = 0; i < samples_; i++)
    rows.insert(rows.end(), padded.begin() + i * row, padded.begin() + i * row + vocab);
  return rows;
}

}  // namespace model
