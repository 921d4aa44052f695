// Generation over caches: the same as the training forward, for every kind of model, split and length.
#include <algorithm>
#include <cmath>
#include <deque>

#include "model/generator.h"
#include "tests/card_case.h"
#include "tests/small_gpt.h"

namespace {

using engine::Device;
using engine::DType;
using engine::Tape;
using engine::Tensor;
using tests::configs;
using tests::Doubles;
using tests::Ids;
using tests::Model;
namespace ops = engine::ops;

double error(std::span<const float> got, const std::vector<float>& expected) {
  return tests::relative_error(std::vector<float>(got.begin(), got.end()),
                               Doubles(expected.begin(), expected.end()));
}

void check_model(const model::GptConfig& config, Device device, DType dtype, double bound) {
  Model m(config, model::Recompute::none, device, dtype);
  const std::int64_t block = config.nsa.block, longest = 4 * block + 2;
  const Ids ids = tests::random_ids(longest, config.vocab, 1);
  const auto rows = m.logits(ids);
  const auto vocab = std::size_t(config.vocab);
  model::Generator generator(m.gpt(), m.stream, 2, longest, {});
  for (std::size_t prompt = 1; prompt <= std::size_t(2 * block + 1); prompt++) {
    CAPTURE(prompt);
    generator.start(std::span(ids).first(prompt));
    for (std::size_t length = prompt; length <= std::size_t(longest); length++) {
      CAPTURE(length);
      if (length > prompt) generator.read(std::span(ids).subspan(length - 1, 1));
      const auto logits = generator.logits();
      CHECK(error(std::span(logits).first(vocab), rows[length - 1]) < bound);
      CHECK(tests::same_bits({logits.begin(), logits.begin() + std::ptrdiff_t(vocab)},
                             {logits.begin() + std::ptrdiff_t(vocab), logits.end()}));
    }
  }
}

// Prompts and lines long enough for passes on every device, at every place of a block.
void check_long(const model::GptConfig& config, Device device, DType dtype, double bound) {
  Model m(config, model::Recompute::none, device, dtype);
  constexpr std::size_t kFirst = 129, kLine = 150, kLongest = 320;
  const Ids ids = tests::random_ids(kLongest, config.vocab, 1);
  const auto rows = m.logits(ids);
  const auto vocab = std::size_t(config.vocab);
  model::Generator generator(m.gpt(), m.stream, 2, kLongest, {});
  const auto check = [&](std::size_t sample, const std::vector<float>& expected) {
    CAPTURE(sample);
    const auto logits = generator.logits();
    CHECK(error(std::span(logits).subspan(sample * vocab, vocab), expected) < bound);
  };
  for (std::size_t prompt = kFirst; prompt <= kFirst + std::size_t(config.nsa.block); prompt++) {
    CAPTURE(prompt);
    generator.start(std::span(ids).first(prompt), prompt);
    check(0, rows[prompt - 1]);
    for (std::size_t i = 0; i < 3; i++) generator.read(std::span(ids).subspan(prompt + i, 1));
    check(1, rows[prompt + 2]);
    generator.read(std::span(ids).subspan(prompt + 3, kLine));
    check(0, rows[prompt + kLine + 2]);
    generator.read(std::span(ids).subspan(prompt + kLine + 3, 2));
    check(1, rows[prompt + kLine + 4]);
  }
  // Samples that differ are read again each for itself.
  generator.start(std::span(ids).first(5), 3);
  std::vector<Ids> held(2, Ids(ids.begin(), ids.begin() + 5));
  for (int i = 0; i < 8; i++)
    for (std::size_t sample = 0; const std::int32_t token : generator.draw()) held[sample++].push_back(token);
  CHECK(held[0] != held[1]);
  for (std::size_t line : {kLine, std::size_t(1)}) {
    const auto given = std::span(ids).first(line);
    generator.read(given);
    for (std::size_t sample = 0; sample < 2; sample++) {
      held[sample].insert(held[sample].end(), given.begin(), given.end());
      check(sample, m.logits(held[sample]).back());
    }
  }
}

// What a generator does with a prompt, a line and a seed, to the bit.
struct Use {
  Ids drawn;
  std::vector<float> logits;
  bool operator==(const Use& other) const {
    return drawn == other.drawn && tests::same_bits(logits, other.logits);
  }
};
Use use(model::Generator& generator, std::span<const std::int32_t> prompt, std::span<const std::int32_t> line,
        std::uint64_t seed) {
  Use result;
  const auto draw = [&](int count) {
    for (; count > 0; count--) {
      const auto& drawn = generator.draw();
      result.drawn.insert(result.drawn.end(), drawn.begin(), drawn.end());
    }
  };
  generator.start(prompt, seed);
  draw(9);
  generator.read(line);
  draw(3);
  result.logits = generator.logits();
  return result;
}

void check_reuse(const model::GptConfig& config, Device device, DType dtype) {
  Model m(config, model::Recompute::none, device, dtype);
  const Ids ids = tests::random_ids(300, config.vocab, 2);
  const auto make = [&] { return model::Generator(m.gpt(), m.stream, 3, 400, {.temperature = 1}); };
  model::Generator again = make();
  const auto all = std::span(std::as_const(ids));
  std::vector<Use> seen;
  for (const auto& [prompt, line, seed] : {std::tuple(std::size_t(1), std::size_t(1), 7u),
                                           {200, 2, 7},
                                           {6, 150, 8},
                                           {1, 1, 7},
                                           {40, 0, 9},
                                           {131, 1, 7},
                                           {6, 150, 8}}) {
    CAPTURE(prompt);
    CAPTURE(line);
    model::Generator fresh = make();
    seen.push_back(use(again, all.first(prompt), all.last(line), seed));
    CHECK(seen.back() == use(fresh, all.first(prompt), all.last(line), seed));
  }
  CHECK(seen[0] == seen[3]);
  CHECK(seen[2] == seen[6]);
  CHECK(seen[1].drawn != seen[5].drawn);
}

void check_keep_end(const model::GptConfig& config, Device device, DType dtype) {
  Model m(config, model::Recompute::none, device, dtype);
  const Ids ids = tests::random_ids(170, config.vocab, 3);
  for (std::size_t count : {std::size_t(1), std::size_t(5), std::size_t(150)}) {
    CAPTURE(count);
    model::Generator generator(m.gpt(), m.stream, 2, 180, {});
    generator.start(ids, 1);
    std::vector<Ids> held(2, ids);
    const auto draw = [&](int tokens) {
      for (; tokens > 0; tokens--)
        for (std::size_t sample = 0; const std::int32_t token : generator.draw())
          held[sample++].push_back(token);
    };
    draw(6);
    generator.keep_end(std::int64_t(count), 11);
    CHECK(generator.length() == std::int64_t(count));
    const std::vector<Ids> before = held;
    draw(7);
    const auto logits = generator.logits();
    for (std::size_t sample = 0; sample < 2; sample++) {
      model::Generator alone(m.gpt(), m.stream, 1, 180, {});
      Ids expected(before[sample].end() - std::ptrdiff_t(count), before[sample].end());
      alone.start(expected, 11 + sample);
      for (int i = 0; i < 7; i++) expected.push_back(alone.draw().front());
      CHECK(std::equal(expected.rbegin(), expected.rend(), held[sample].rbegin()));
      const auto row = std::ptrdiff_t(sample) * config.vocab;
      CHECK(tests::same_bits({logits.begin() + row, logits.begin() + row + config.vocab}, alone.logits()));
    }
  }
}

// One layer's attention over packed rows of `length` tokens: all at once, and `prompt` at once and then one
// by one, in a cache of two samples.
class Layer {
 public:
  Layer(std::int64_t length, const engine::Heads& heads, const engine::NsaConfig& config, Device device)
      : length_(length), heads_(heads), config_(config), stream_(device) {
    const std::int64_t kv = heads.kv, dim = heads.dim, block = config.block;
    qkv_ = make({length, heads.packed()}, 1), gates_ = make({length, 3 * heads.query}, 1);
    const engine::Shape shapes[] = {
        {2, kv, config.memory, dim}, {kv, block, dim}, {kv, block, dim}, {kv * dim, dim, block},
        {kv * dim, dim, block},      {kv * dim},       {kv * dim}};
    for (std::size_t i = 0; i < 7; i++)
      params_[i].value = make(shapes[i], i == 3 || i == 4 ? 1 / std::sqrt(double(dim * block)) : 0.5);
  }
  struct Result {
    std::vector<float> y;             // [length, heads * dim]
    std::vector<std::int32_t> picks;  // [length, heads, select], -1 where there is none
  };
  Result at_once() { return perform(length_, length_, engine::KvCache()); }
  Result in_steps(std::int64_t prompt) {
    return perform(prompt, length_,
                   engine::sparse_cache(stream_.device(), DType::f32, 2, length_, heads_, config_));
  }

 private:
  Tensor make(engine::Shape shape, double deviation) {
    const Tensor t = Tensor::persistent(stream_.device(), shape, DType::f32);
    const Doubles values = tests::random_values(std::size_t(shape.numel()), seed_++, 0, deviation);
    t.from_host(std::vector<float>(values.begin(), values.end()).data(), stream_);
    return t;
  }
  engine::NsaParams params() {
    return {&params_[0], &params_[1], &params_[2], &params_[3], &params_[4], &params_[5], &params_[6]};
  }
  std::vector<std::int32_t> integers(const Tensor& t) {
    std::vector<std::int32_t> values(std::size_t(t.numel()));
    stream_.copy(values.data(), t.data(), t.bytes());
    stream_.wait();
    return values;
  }

  Result perform(std::int64_t prompt, std::int64_t length, const engine::KvCache& cache) {
    Result result;
    const std::int64_t width = heads_.query * heads_.dim;
    if (prompt > 0) {
      engine::Arena arena(stream_.device());
      engine::Context context{stream_, arena};
      for (int pass = 0; pass < 2; pass++) {  // a rehearsal first
        if (pass == 1) arena.commit();
        Tape tape(context, Tape::Mode::infer);
        Tensor selected;
        const Tensor rope = ops::rope_table(tape, prompt, heads_.dim, 10000);
        const Tensor y = ops::sparse_attention(tape, qkv_.slice(0, {prompt, heads_.packed()}),
                                               gates_.slice(0, {prompt, 3 * heads_.query}), rope, params(),
                                               heads_, config_, 1, &selected, cache.k ? &cache : nullptr);
        if (pass == 0) continue;
        result.y = y.to_host(stream_);
        spread(integers(selected), prompt, selected.shape()[3], result.picks);
      }
    }
    if (prompt == length) return result;
    engine::StepPlaces places{Tensor::persistent(stream_.device(), {2}, DType::i32),
                              Tensor::persistent(stream_.device(), {length, heads_.dim / 2, 2}, DType::f32)};
    const Tensor qkv = Tensor::persistent(stream_.device(), {2, heads_.packed()}, DType::f32),
                 gates = Tensor::persistent(stream_.device(), {2, 3 * heads_.query}, DType::f32);
    engine::Arena arena(stream_.device());
    engine::Context context{stream_, arena};
    for (std::int64_t t = prompt - 1; t < length; t++) {  // a rehearsal first
      if (t == prompt) {
        arena.commit();
        Tape tape(context, Tape::Mode::infer);
        ops::fill_rope_table(tape, places.table, 10000);
      }
      const std::int64_t from = std::max<std::int64_t>(t, 0);
      const std::int32_t positions[2] = {std::int32_t(from), std::int32_t(from)};
      stream_.copy(places.positions.data(), positions, sizeof positions);
      for (std::int64_t sample = 0; sample < 2; sample++) {
        copy_row(qkv_, from, qkv, sample);
        copy_row(gates_, from, gates, sample);
      }
      Tape tape(context, Tape::Mode::step);
      Tensor selected;
      const Tensor y =
          ops::sparse_attention_step(tape, qkv, gates, places, params(), heads_, config_, cache, &selected);
      if (!arena.committed()) continue;
      const auto rows = y.to_host(stream_);
      CHECK(tests::same_bits({rows.begin(), rows.begin() + width}, {rows.begin() + width, rows.end()}));
      result.y.insert(result.y.end(), rows.begin(), rows.begin() + width);
      const auto picks = integers(selected);
      result.picks.insert(result.picks.end(), picks.begin(), picks.begin() + picks.size() / 2);
    }
    return result;
  }
  void copy_row(const Tensor& from, std::int64_t row, const Tensor& to, std::int64_t to_row) {
    const std::int64_t columns = from.shape()[1];
    const Tensor target = to.slice(to_row * columns, {columns});
    stream_.copy(target.data(), from.slice(row * columns, {columns}).data(), target.bytes());
  }
  // [heads, length, top] -> [length, heads, select]
  void spread(const std::vector<std::int32_t>& picks, std::int64_t length, std::int64_t top,
              std::vector<std::int32_t>& to) const {
    to.assign(std::size_t(length * heads_.query * config_.select), -1);
    for (std::int64_t h = 0; h < heads_.query; h++)
      for (std::int64_t t = 0; t < length; t++)
        for (std::int64_t j = 0; j < top; j++)
          to[std::size_t((t * heads_.query + h) * config_.select + j)] =
              picks[std::size_t((h * length + t) * top + j)];
  }

  std::int64_t length_;
  engine::Heads heads_;
  engine::NsaConfig config_;
  engine::Stream stream_;
  unsigned seed_ = 1;
  Tensor qkv_, gates_;
  std::deque<engine::Param> params_ = std::deque<engine::Param>(7);
};

struct LayerSizes {
  std::int64_t length;
  engine::Heads heads;
  engine::NsaConfig config = {};
};
const std::vector<LayerSizes> kShort{{65, {2, 2, 64}},
                                     {64, {4, 2, 32}, {.block = 16, .select = 2, .window = 5, .memory = 1}},
                                     {63, {2, 1, 128}, {.block = 8, .select = 8, .window = 16, .memory = 2}},
                                     {40, {3, 3, 6}, {.block = 64, .select = 3, .window = 0, .memory = 3}}};
const std::vector<LayerSizes> kLong{{507, {2, 2, 64}}, {2048, {2, 1, 64}}};

void check_layers(const std::vector<LayerSizes>& layers, Device device) {
  for (const auto& [length, heads, config] : layers) {
    CAPTURE(length);
    Layer layer(length, heads, config, device);
    const auto expected = layer.at_once();
    for (std::int64_t prompt : {std::int64_t(0), std::int64_t(1), config.block, length / 2 + 1, length - 1}) {
      if (prompt >= length) continue;
      CAPTURE(prompt);
      const auto got = layer.in_steps(prompt);
      CHECK(error(got.y, expected.y) < tests::kForwardBound);
      CHECK(got.picks == expected.picks);
    }
  }
}

}  // namespace

TEST_CASE("generation: a prompt and then steps give the logits of the training forward, for every split") {
  for (const auto& [name, config] : configs()) {
    CAPTURE(name);
    check_model(config, {}, DType::f32, 1e-5);
    check_long(config, {}, DType::f32, 1e-5);
  }
}

TEST_CASE("generation: a generator used again gives the bits of a new one") {
  for (const auto& [name, config] : configs()) {
    CAPTURE(name);
    check_reuse(config, {}, DType::f32);
    check_keep_end(config, {}, DType::f32);
  }
}

TEST_CASE("generation: sparse attention in steps gives the same values and picks the same blocks") {
  check_layers(kShort, {});
  check_layers(kLong, {});
}

TEST_CASE("generation on a card: the logits of the training forward there" *
          doctest::skip(tests::no_card("generation on a card: the logits of the training forward there"))) {
  for (const auto& [name, config] : configs()) {
    CAPTURE(name);
    check_model(config, tests::kCard, DType::f32, 1e-5);
    check_model(config, tests::kCard, DType::bf16, 2e-2);
    check_long(config, tests::kCard, DType::f32, 1e-5);
    check_long(config, tests::kCard, DType::bf16, 2e-2);
  }
}

TEST_CASE("generation on a card: sparse attention in steps, short texts" *
          doctest::skip(tests::no_card("generation on a card: sparse attention in steps, short texts"))) {
  check_layers(kShort, tests::kCard);
}

TEST_CASE("generation on a card: sparse attention in steps, long texts" *
          doctest::skip(tests::no_card("generation on a card: sparse attention in steps, long texts"))) {
  check_layers(kLong, tests::kCard);
}

TEST_CASE("generation on a card: a generator used again gives the bits of a new one" *
          doctest::skip(
              tests::no_card("generation on a card: a generator used again gives the bits of a new one"))) {
  for (const auto& [name, config] : configs()) {
    CAPTURE(name);
    for (DType dtype : {DType::f32, DType::bf16}) {
      check_reuse(config, tests::kCard, dtype);
      check_keep_end(config, tests::kCard, dtype);
    }
  }
}
