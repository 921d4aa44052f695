#include "model/generator.h"

#include "engine/error.h"

namespace model {

using engine::DType;
using engine::Tape;
using engine::Tensor;

Generator::Generator(const Gpt& gpt, engine::Stream& stream, std::int64_t samples, std::int64_t capacity,
                     const SamplerConfig& sampler, std::int32_t banned)
    : gpt_(gpt),
      stream_(stream),
      samples_(samples),
      capacity_(capacity),
      sampler_(sampler),
      banned_(banned),
      caches_(gpt.make_caches(stream.device(), samples, capacity)),
      draws_{.tokens = Tensor::persistent(stream.device(), {samples, capacity}, DType::i32),
             .positions = caches_.places.positions,
             .drawn = Tensor::persistent(stream.device(), {2, samples}, DType::i32)},
      logits_(Tensor::persistent(stream.device(), {samples, gpt.config().padded_vocab()}, DType::f32)),
      arena_(stream.device()),
      pass_arena_(stream.device()),
      context_{stream_, arena_},
      pass_context_{stream_, pass_arena_},
      staging_(engine::allocate_staging(stream.device(), draws_.drawn.bytes())),
      drawn_event_(stream.device()),
      drawn_(std::size_t(samples)) {
  step();
  draw_next();
  arena_.commit();
  Tape tape(context_, Tape::Mode::infer);
  gpt_.fill_table(tape, caches_);
}

Tensor Generator::newest() const { return draws_.drawn.slice(0, {samples_}); }

void Generator::check_room(std::int64_t length) const {
  engine::require(length > 0 && length <= capacity_, engine::Exit::failure, "{} tokens, room for 1 to {}",
                  length, capacity_);
}

std::size_t Generator::memory_bytes() const noexcept {
  return caches_.bytes() + draws_.tokens.bytes() + draws_.drawn.bytes() + logits_.bytes() + arena_.peak() +
         pass_arena_.peak();
}

void Generator::reserve(std::int64_t tokens) {
  check_room(tokens);
  if (!by_steps(tokens, tokens)) plan_pass(tokens);
}

void Generator::start(std::span<const std::int32_t> tokens, std::uint64_t seed) {
  restart(seed);
  alike_ = true;
  read(tokens);
}

void Generator::read(std::span<const std::int32_t> tokens) {
  check_room(length_ + std::int64_t(tokens.size()));
  std::vector<std::int32_t> rows;
  for (std::int64_t i = 0; i < samples_; i++) rows.insert(rows.end(), tokens.begin(), tokens.end());
  append(rows, std::int64_t(tokens.size()));
}

void Generator::keep_end(std::int64_t count, std::uint64_t seed) {
  engine::require(count > 0 && count <= length_, engine::Exit::failure, "keep {} of {} tokens", count,
                  length_);
  std::vector<std::int32_t> rows(std::size_t(samples_ * count));
  for (std::int64_t i = 0; i < samples_; i++) {
    const Tensor end = draws_.tokens.slice(i * capacity_ + length_ - count, {count});
    stream_.copy(rows.data() + i * count, end.data(), end.bytes());
  }
  stream_.wait();
  restart(seed);
  append(rows, count);
}

void Generator::restart(std::uint64_t seed) {
  length_ = 0;
  unread_ = false;
  if (seed != seed_) draw_graph_.forget();  // it holds the seed
  seed_ = seed;
}

void Generator::append(std::span<const std::int32_t> rows, std::int64_t count) {
  if (count == 0) return;
  for (std::int64_t i = 0; i < samples_; i++) {
    const Tensor to = draws_.tokens.slice(i * capacity_ + length_, {count});
    stream_.copy(to.data(), rows.data() + i * count, to.bytes());
  }
  if (by_steps(count, length_ + count)) return read_by_steps(rows, count);
  length_ += count;
  read_by_passes();
}

// Whether `count` tokens, after which a sample holds `length`, are read by steps: where that takes less time.
bool Generator::by_steps(std::int64_t count, std::int64_t length) const noexcept {
  // Measured in steps: what a pass takes at least, and how many tokens it reads in the time of one. On a card
  // a length that is new has its products measured first, which takes as long as hundreds of steps.
  const bool card = stream_.device().kind == engine::DeviceKind::cuda;
  const std::int64_t least = card ? 128 : 1, tokens_a_step = card ? 256 : 16;
  return count <= least + length / tokens_a_step;
}

void Generator::place(std::int64_t position) {
  const std::vector positions(std::size_t(samples_), static_cast<std::int32_t>(position));
  stream_.copy(draws_.positions.data(), positions.data(), draws_.positions.bytes());
}

void Generator::read_by_steps(std::span<const std::int32_t> rows, std::int64_t count) {
  std::vector<std::int32_t> ids(std::size_t(samples_), 0);
  for (std::int64_t t = 0; t < count; t++) {
    catch_up();
    for (std::int64_t i = 0; i < samples_; i++) ids[std::size_t(i)] = rows[std::size_t(i * count + t)];
    place(length_);
    stream_.copy(newest().data(), ids.data(), newest().bytes());
    length_++;
    unread_ = true;
  }
}

void Generator::read_by_passes() {
  plan_pass(length_);
  place(length_ - 1);
  unread_ = false;
  if (!alike_) {
    for (std::int64_t i = 0; i < samples_; i++) pass(i, length_, caches_.of(i));
    return stream_.wait();
  }
  pass(0, length_, caches_);
  const std::int64_t row = gpt_.config().padded_vocab();
  for (std::int64_t i = 1; i < samples_; i++) {
    const Tensor to = logits_.slice(i * row, {1, row});
    stream_.copy(to.data(), logits_.data(), to.bytes());
  }
  stream_.wait();
}

void Generator::plan_pass(std::int64_t length) {
  if (length == pass_length_) return;
  pass_length_ = 0;
  pass_arena_ = engine::Arena(stream_.device());
  pass(0, length, caches_);
  pass_arena_.commit();
  pass_length_ = length;
}

// The ops of training read the first `length` tokens of a sample; every sample of `to` gets them.
void Generator::pass(std::int64_t sample, std::int64_t length, const Caches& to) {
  Tape tape(pass_context_, Tape::Mode::infer);
  const std::int64_t width = gpt_.config().width, row = gpt_.config().padded_vocab();
  const Tensor ids = draws_.tokens.slice(sample * capacity_, {length});
  const Tensor last = gpt_.hidden(tape, ids, 1, &to).slice((length - 1) * width, {1, width});
  gpt_.logits(tape, last, logits_.slice(sample * row, {1, row}));
}

void Generator::step() {
  Tape tape(context_, Tape::Mode::step);
  gpt_.logits(tape, gpt_.hidden_step(tape, newest(), caches_), logits_);
}

void Generator::draw_next() {
  Tape tape(context_, Tape::Mode::step);
  engine::ops::draw(tape, logits_, draws_, sampler_, gpt_.config().vocab, seed_, banned_);
  if (arena_.committed()) stream_.copy(staging_.get(), draws_.drawn.data(), draws_.drawn.bytes());
}

void Generator::catch_up() {
  if (unread_) step_graph_.run(stream_, [this] { step(); });
  unread_ = false;
}

const std::vector<std::int32_t>& Generator::draw() {
  check_room(length_ + 1);
  catch_up();
  draw_graph_.run(stream_, [this] { draw_next(); });
  drawn_event_.record(stream_);
  length_++;
  unread_ = true;
  alike_ = samples_ == 1;
  if (stream_.device().kind == engine::DeviceKind::cuda) catch_up();  // while the host reads the token
  drawn_event_.wait();

  const auto* drawn = reinterpret_cast<const std::int32_t*>(staging_.get());
  drawn_.assign(drawn, drawn + samples_);
  for (std::int64_t i = 0; i < samples_; i++)
    engine::require(
        drawn[samples_ + i] < 0, engine::Exit::diverged,
        "the model's output for token {} at position {} is not finite; the checkpoint has diverged",
        drawn[samples_ + i], length_ - 1);
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
