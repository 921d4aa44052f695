// From logits to tokens, on the CPU and on a card.
#include "engine/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "kernels/sample_math.h"
#include "tests/card_case.h"

namespace {

using engine::DType;
using engine::SamplerConfig;
using engine::Tensor;
using Logits = std::vector<float>;
using Ids = std::vector<std::int32_t>;
using Set = std::set<std::int32_t>;

// Draws for rows of logits on a device.
class Drawer {
 public:
  explicit Drawer(SamplerConfig config, std::uint64_t seed, engine::Device device = {})
      : config_(config), seed_(seed), stream_(device) {}

  struct Drawn {
    Ids tokens, bad;
    bool operator==(const Drawn&) const = default;
  };
  // `rows` of logits; each row's sample holds `history`, which ends in front of `position`.
  Drawn draw(const Logits& logits, std::int64_t rows, const Ids& history, std::int64_t position,
             std::int32_t banned) {
    const std::int64_t vocab = std::int64_t(logits.size()) / rows, stride = vocab + 3,
                       capacity = position + 1;
    Ids tokens(std::size_t(rows * capacity), 0);
    for (std::int64_t r = 0; r < rows; r++)
      std::copy(history.begin(), history.end(),
                tokens.begin() + r * capacity + position - std::int64_t(history.size()));
    const engine::Draws draws{on_device({rows, capacity}, tokens),
                              on_device({rows}, Ids(std::size_t(rows), std::int32_t(position) - 1)),
                              on_device({2, rows}, Ids(std::size_t(2 * rows), -7))};
    Logits padded(std::size_t(rows * stride), std::nanf(""));
    for (std::int64_t r = 0; r < rows; r++)
      std::copy_n(logits.begin() + r * vocab, vocab, padded.begin() + r * stride);
    const Tensor x = Tensor::persistent(stream_.device(), {rows, stride}, DType::f32);
    x.from_host(padded.data(), stream_);
    engine::Arena arena(stream_.device());
    engine::Context context{stream_, arena};
    for (int pass = 0; pass < 2; pass++) {  // a rehearsal first
      if (pass == 1) arena.commit();
      engine::Tape tape(context, engine::Tape::Mode::step);
      engine::ops::draw(tape, x, draws, config_, vocab, seed_, banned);
    }
    const Ids drawn = read(draws.drawn);
    for (std::int64_t r = 0; r < rows; r++) {
      tokens[std::size_t((r + 1) * capacity - 1)] = drawn[std::size_t(r)];
      if (drawn[std::size_t(rows + r)] >= 0) CHECK(drawn[std::size_t(r)] == 0);
    }
    CHECK(read(draws.tokens) == tokens);
    CHECK(read(draws.positions) == Ids(std::size_t(rows), std::int32_t(position)));
    return {{drawn.begin(), drawn.begin() + rows}, {drawn.begin() + rows, drawn.end()}};
  }

 private:
  Tensor on_device(engine::Shape shape, const Ids& values) {
    const Tensor t = Tensor::persistent(stream_.device(), shape, DType::i32);
    stream_.copy(t.data(), values.data(), t.bytes());
    stream_.wait();
    return t;
  }
  Ids read(const Tensor& t) {
    Ids values(std::size_t(t.numel()));
    stream_.copy(values.data(), t.data(), t.bytes());
    stream_.wait();
    return values;
  }

  SamplerConfig config_;
  std::uint64_t seed_;
  engine::Stream stream_;
};

class Sampler {  // one row
 public:
  Sampler(SamplerConfig config, std::uint64_t seed) : drawer_(config, seed) {}
  std::int32_t next(const Logits& logits, const Ids& history, std::uint64_t position,
                    std::int32_t banned = -1) {
    const auto at = std::max(std::int64_t(position), std::int64_t(history.size()));
    return drawer_.draw(logits, 1, history, at, banned).tokens.front();
  }

 private:
  Drawer drawer_;
};

const SamplerConfig kNeutral{
    .repeat_penalty = 1, .top_frac = 0, .top_k = 0, .top_p = 1, .min_p = 0, .temperature = 1};
const SamplerConfig kGreedy{.top_k = 0, .top_p = 1, .min_p = 0, .temperature = 0};

Logits logs(const std::vector<double>& probabilities) {
  Logits logits;
  for (double p : probabilities) logits.push_back(float(std::log(p)));
  return logits;
}

// The tokens that can be drawn: a temperature that makes all that passed the filters about equally likely.
Set kept(SamplerConfig config, const Logits& logits, const std::vector<std::int32_t>& history = {}) {
  config.temperature = 1000;
  Sampler sampler(config, 5);
  std::set<std::int32_t> seen;
  for (std::uint64_t at = 0; at < 100 * logits.size(); at++) seen.insert(sampler.next(logits, history, at));
  return seen;
}

}  // namespace

TEST_CASE("sampler: greedy takes the largest, the lower token of equals") {
  Sampler sampler(kGreedy, 1);
  CHECK(sampler.next(Logits{1, 5, 2}, {}, 0) == 1);
  CHECK(sampler.next(Logits{5, 1, 5, 5}, {}, 0) == 0);
  CHECK(sampler.next(Logits{-INFINITY, -3, -3}, {}, 0) == 1);
  CHECK(sampler.next(Logits{7}, {}, 0) == 0);
  Logits many(1000, 1.f);
  many[600] = many[300] = 2;
  CHECK(sampler.next(many, {}, 9) == 300);
}

TEST_CASE("sampler: top-k and top-frac keep so many, the lower tokens of equals") {
  SamplerConfig config = kNeutral;
  config.top_k = 3;
  CHECK(kept(config, {1, 5, 4, 2, 3}) == Set{1, 2, 4});
  CHECK(kept(config, {1, 2, 2, 2, 2}) == Set{1, 2, 3});
  config.top_k = 9;
  CHECK(kept(config, {1, 5, 4}) == Set{0, 1, 2});
  config.top_k = 0;
  for (const auto& [vocabulary, fraction, count] :
       {std::tuple{21, 0.1, 3}, {256, 0.1, 26}, {5, 0.2, 1}, {4, 1., 4}}) {
    CAPTURE(vocabulary);
    config.top_frac = fraction;
    Logits falling;
    for (int i = 0; i < vocabulary; i++) falling.push_back(float(-i));
    Set expected;
    for (int i = 0; i < count; i++) expected.insert(i);
    CHECK(kept(config, falling) == expected);
  }
}

TEST_CASE("sampler: top-p keeps the fewest that reach it, min-p those near the best") {
  const Logits logits = logs({0.0625, 0.5, 0.125, 0.25, 0.0625});
  SamplerConfig config = kNeutral;
  CHECK(kept(config, logits) == Set{0, 1, 2, 3, 4});
  config.top_p = 0.7;
  CHECK(kept(config, logits) == Set{1, 3});
  config.top_p = 0.76;
  CHECK(kept(config, logits) == Set{1, 2, 3});
  config.top_p = 0.9;
  CHECK(kept(config, logits) == Set{0, 1, 2, 3});
  config.top_p = 0;
  CHECK(kept(config, logits) == Set{1});
  config.top_p = 1, config.min_p = 0.24;
  CHECK(kept(config, logits) == Set{1, 2, 3});
  config.min_p = 0.26;
  CHECK(kept(config, logits) == Set{1, 3});
  config.min_p = 1;
  CHECK(kept(config, logits) == Set{1});
}

TEST_CASE("sampler: the filters work in their order, before the temperature") {
  const Logits logits = logs({0.5, 0.25, 0.125, 0.0625, 0.0625});
  SamplerConfig config = kNeutral;
  config.top_k = 2, config.top_p = 0.6;  // of two, the first has 2/3; of all, 1/2
  CHECK(kept(config, logits) == Set{0});
  config.top_k = 0, config.top_frac = 0.4;
  CHECK(kept(config, logits) == Set{0});
  config.top_frac = 0, config.top_p = 1, config.top_k = 1,
  config.repeat_penalty = 2;  // log 0.5 becomes 2 log 0.5
  CHECK(kept(config, logits, {0}) == Set{0});
  config.repeat_penalty = 3;
  CHECK(kept(config, logits, {0}) == Set{1});
}

TEST_CASE("sampler: the penalty divides positive and multiplies negative logits, once, of recent tokens") {
  SamplerConfig config = kGreedy;
  config.repeat_penalty = 1.2;
  using History = std::vector<std::int32_t>;
  const auto next = [&](const Logits& logits, const History& history) {
    return Sampler(config, 1).next(logits, history, 0);
  };
  CHECK(next({2, 1.7f, 0}, {0}) == 1);
  CHECK(next({2, 1.6f, 0}, {0}) == 0);
  CHECK(next({2, 1.6f, 0}, {0, 0, 0}) == 0);
  CHECK(next({-1, -1.1f}, {0}) == 1);
  CHECK(next({-1, -1.3f}, {0}) == 0);
  config.repeat_last = 2;
  CHECK(next({2, 1.9f, 1.8f}, {0, 2, 2}) == 0);
  CHECK(next({2, 1.9f, 1.8f}, {2, 0, 1}) == 2);
  config.repeat_last = 0;
  CHECK(next({2, 1.9f}, {0}) == 0);
  config.repeat_last = 64, config.repeat_penalty = 1;
  CHECK(next({2, 1.9f}, {0}) == 0);
}

TEST_CASE("sampler: a banned token is never drawn") {
  Sampler greedy(kGreedy, 1), sampler(kNeutral, 1);
  CHECK(greedy.next(Logits{1, 5, 2}, {}, 0, 1) == 2);
  std::set<std::int32_t> seen;
  for (std::uint64_t at = 0; at < 1000; at++) seen.insert(sampler.next(Logits{0, 9, 0}, {}, at, 1));
  CHECK(seen == Set{0, 2});
}

TEST_CASE("sampler: tokens come as often as softmax(logits / temperature) says") {
  const Logits logits{0.3f, -1.2f, 2.f, 0, 0.9f, -0.4f, 1.5f, -2.5f, 0.1f, 1.f, -INFINITY, 0.7f};
  constexpr int kDraws = 20'000;
  for (const auto& [seed, temperature] : {std::pair{1, 1.}, {2, 0.7}, {3, 2.}}) {
    CAPTURE(seed);
    SamplerConfig config = kNeutral;
    config.temperature = temperature;
    std::vector<double> expected;
    double total = 0;
    for (float l : logits) expected.push_back(std::exp(double(l) / temperature)), total += expected.back();
    std::vector<int> drawn(logits.size(), 0);
    Sampler sampler(config, std::uint64_t(seed));
    for (std::uint64_t at = 0; at < kDraws; at++) drawn[std::size_t(sampler.next(logits, {}, at))]++;
    double chi_square = 0;
    for (std::size_t i = 0; i < logits.size(); i++) {
      const double mean = expected[i] / total * kDraws;
      if (mean > 0) chi_square += (drawn[i] - mean) * (drawn[i] - mean) / mean;
      else CHECK(drawn[i] == 0);
    }
    CHECK(chi_square < 35.6);  // 10 degrees of freedom: passed by one in 10,000
  }
}

TEST_CASE("sampler: a token is a function of seed and position") {
  const Logits logits(50, 0.f);
  std::vector<std::int32_t> first, other_seed;
  Sampler sampler(kNeutral, 1), other(kNeutral, 2);
  for (std::uint64_t at = 0; at < 100; at++) {
    first.push_back(sampler.next(logits, {}, at));
    other_seed.push_back(other.next(logits, {}, at));
  }
  for (std::uint64_t at = 100; at-- > 0;) CHECK(sampler.next(logits, {}, at) == first[at]);
  CHECK(first != other_seed);
  CHECK(std::set(first.begin(), first.end()).size() > 30);
}

TEST_CASE("sampler: an output that is not finite is named") {
  for (const SamplerConfig& config : {kNeutral, kGreedy, SamplerConfig{}})
    for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
      const auto drawn = Drawer(config, 1).draw({1, 2, bad, 3, 1, -INFINITY, 3, 4}, 2, {}, 17, -1);
      CHECK(drawn.bad == Ids{2, -1});
      CHECK(drawn.tokens[0] == 0);
    }
}

namespace {

// As docs/reference.md has it: everything sorted, sums of whole numbers, one candidate after the other.
std::int32_t plain_draw(Logits logits, const SamplerConfig& c, const Ids& history, std::uint64_t seed,
                        std::uint64_t position, std::int32_t banned) {
  const auto recent = std::min(history.size(), std::size_t(c.repeat_last));
  for (std::int32_t token : Set(history.end() - std::ptrdiff_t(recent), history.end())) {
    float& l = logits[std::size_t(token)];
    l = float(l > 0 ? l / c.repeat_penalty : l * c.repeat_penalty);
  }
  Ids order;
  for (std::int32_t i = 0; i < std::int32_t(logits.size()); i++)
    if (i != banned) order.push_back(i);
  const auto at = [&](std::int32_t i) { return logits[std::size_t(i)]; };
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return at(a) > at(b); });
  if (c.temperature == 0) return order.front();
  const auto keep = [&](std::size_t count) { order.resize(std::min(order.size(), count)); };
  if (c.top_frac > 0) keep(std::size_t(std::ceil(c.top_frac * double(logits.size()))));
  if (c.top_k > 0) keep(std::size_t(c.top_k));
  const auto weight = [&](std::int32_t i) { return std::uint64_t(std::exp(at(i) - at(order[0])) * 0x1p40f); };
  if (c.top_p < 1) {
    std::uint64_t total = 0, sum = 0;
    for (std::int32_t i : order) total += weight(i);
    std::size_t kept = 0;
    while (kept == 0 || sum < std::uint64_t(std::ceil(c.top_p * double(total)))) sum += weight(order[kept++]);
    keep(kept);
  }
  while (c.min_p > 0 && order.size() > 1 && at(order.back()) < at(order[0]) + std::log(c.min_p))
    order.pop_back();
  std::pair<double, std::int32_t> best{-INFINITY, 0};
  for (std::int32_t i : order)
    best = std::max(best, {at(i) / c.temperature + k::noise_of(seed, position, std::uint64_t(i)), -i});
  return -best.second;
}

// Rows under many configurations. Logits are multiples of 1/4, so that many are equal and no rounding of an
// exponential decides.
void check_rows(engine::Device device, std::int64_t vocab, std::int64_t rows) {
  std::mt19937 bits(unsigned(vocab * 31 + rows));
  std::normal_distribution<float> normal(0, 4);
  for (int i = 0; i < 24; i++) {
    CAPTURE(i);
    Logits logits(std::size_t(rows * vocab));
    for (float& l : logits) l = bits() % 50 == 0 ? -INFINITY : std::round(normal(bits) * 4) / 4;
    for (std::int64_t r = 0; r < rows; r++) logits[std::size_t(r * vocab + vocab / 2)] = 1;
    SamplerConfig c = kNeutral;
    if (i % 2) c.top_k = 1 + int(bits() % 100);
    if (i % 3 == 1) c.top_frac = 0.1;
    if (i / 2 % 2) c.top_p = i / 4 % 2 ? 0.95 : 0.3;
    if (i / 4 % 2) c.min_p = 0.05;
    if (i / 8 % 2) c.repeat_penalty = i % 2 ? 1.3 : 0.8, c.repeat_last = 20;
    c.temperature = i % 7 == 6 ? 0 : 0.5 + 0.1 * i;
    Ids history;
    for (int t = 0; t < 30; t++) history.push_back(std::int32_t(bits() % std::uint64_t(vocab)));
    const std::int32_t banned = i % 5 == 0 && vocab > 1 ? 0 : -1;
    const auto drawn = Drawer(c, 77).draw(logits, rows, history, 35, banned);
    CHECK(Drawer(c, 77, device).draw(logits, rows, history, 35, banned) == drawn);
    for (std::int64_t r = 0; r < rows; r++) {
      const Logits row(logits.begin() + r * vocab, logits.begin() + (r + 1) * vocab);
      CHECK(drawn.tokens[std::size_t(r)] == plain_draw(row, c, history, 77 + std::uint64_t(r), 35, banned));
    }
  }
}

}  // namespace

TEST_CASE("sampler: what the plainest program draws, for all filters and many equal logits") {
  for (std::int64_t vocab : {1, 2, 7, 40, 41, 300, 3000}) {
    CAPTURE(vocab);
    check_rows({}, vocab, 3);
  }
}

TEST_CASE("sampler on a card: what the CPU draws, each row by itself" *
          doctest::skip(tests::no_card("sampler on a card: what the CPU draws, each row by itself"))) {
  for (std::int64_t vocab : {1, 2, 7, 41, 3000, 21128, 151936}) {
    CAPTURE(vocab);
    check_rows(tests::kCard, vocab, vocab > 3000 ? 2 : 65);
  }
}
