#include "model/generator.h"

#include "engine/error.h"

namespace model {

using engine::DType;
using engine::Tape;
using engine::Tensor;

Generator::Generator(const Gpt& gpt, engine::Stream& stream, std::int64_t samples, std::int64_t capacity,
                     const SamplerConfig& sampler, std::uint64_t seed, std::int32_t banned)
    : gpt_(gpt),
      stream_(stream),
      samples_(samples),
      capacity_(capacity),
      sampler_(sampler),
      seed_(seed),
      banned_(banned),
      caches_(gpt.make_caches(stream.device(), samples, capacity)),
      draws_{.tokens = Tensor::persistent(stream.device(), {samples, capacity}, DType::i32),
             .positions = caches_.places.positions,
             .drawn = Tensor::persistent(stream.device(), {2, samples}, DType::i32)},
      logits_(Tensor::persistent(stream.device(), {samples, gpt.config().padded_vocab()}, DType::f32)),
      arena_(stream.device()),
      staging_(engine::allocate_staging(stream.device(), draws_.drawn.bytes())),
      drawn_event_(stream.device()),
      drawn_(std::size_t(samples)) {
  step();
  draw_next();
  arena_.commit();
  engine::Context context{stream_, arena_};
  Tape tape(context, Tape::Mode::infer);
  gpt_.fill_table(tape, caches_);
}

Tensor Generator::newest() const { return draws_.drawn.slice(0, {samples_}); }

void Generator::check_room(std::int64_t length) const {
  engine::require(length > 0 && length <= capacity_, engine::Exit::failure, "{} tokens, room for 1 to {}",
                  length, capacity_);
}

void Generator::start(std::span<const std::int32_t> tokens) {
  check_room(std::int64_t(tokens.size()));
  length_ = std::int64_t(tokens.size());
  for (std::int64_t i = 0; i < samples_; i++)
    stream_.copy(draws_.tokens.slice(i * capacity_, {length_}).data(), tokens.data(), tokens.size_bytes());
  const std::vector<std::int32_t> positions(std::size_t(samples_), std::int32_t(length_ - 1));
  stream_.copy(draws_.positions.data(), positions.data(), draws_.positions.bytes());

  engine::Arena arena(stream_.device());
  const Tensor ids = draws_.tokens.slice(0, {length_});
  const std::int64_t width = gpt_.config().width, row = gpt_.config().padded_vocab();
  const auto read_all = [&] {
    engine::Context context{stream_, arena};
    Tape tape(context, Tape::Mode::infer);
    const Tensor last = gpt_.hidden(tape, ids, 1, &caches_).slice((length_ - 1) * width, {1, width});
    gpt_.logits(tape, last, logits_.slice(0, {1, row}));
  };
  read_all();  // a rehearsal
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
  engine::Context context{stream_, arena_};
  Tape tape(context, Tape::Mode::step);
  gpt_.logits(tape, gpt_.hidden_step(tape, newest(), caches_), logits_);
}

void Generator::draw_next() {
  engine::Context context{stream_, arena_};
  Tape tape(context, Tape::Mode::step);
  engine::ops::draw(tape, logits_, draws_, sampler_, gpt_.config().vocab, seed_, banned_);
  if (arena_.committed()) stream_.copy(staging_.get(), draws_.drawn.data(), draws_.drawn.bytes());
}

void Generator::catch_up() {
  if (unread_) step_graph_.run(stream_, [this] { step(); });
  unread_ = false;
}

void Generator::read(std::span<const std::int32_t> tokens) {
  for (std::int32_t token : tokens) {
    check_room(length_ + 1);
    catch_up();
    const std::size_t samples = std::size_t(samples_);
    const std::vector<std::int32_t> positions(samples, std::int32_t(length_)), ids(samples, token);
    stream_.copy(draws_.positions.data(), positions.data(), draws_.positions.bytes());
    stream_.copy(draws_.drawn.data(), ids.data(), ids.size() * sizeof(std::int32_t));
    for (std::int64_t i = 0; i < samples_; i++)
      stream_.copy(draws_.tokens.slice(i * capacity_ + length_, {1}).data(), &token, sizeof token);
    length_++;
    unread_ = true;
  }
}

const std::vector<std::int32_t>& Generator::draw() {
  check_room(length_ + 1);
  catch_up();
  draw_graph_.run(stream_, [this] { draw_next(); });
  drawn_event_.record(stream_);
  length_++;
  unread_ = true;
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
