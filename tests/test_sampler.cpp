#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "engine/error.h"
#include "tests/support.h"

namespace {

using model::Sampler;
using model::SamplerConfig;
using Logits = std::vector<float>;

const SamplerConfig kNeutral{
    .repeat_penalty = 1, .top_frac = 0, .top_k = 0, .top_p = 1, .min_p = 0, .temperature = 1};
const SamplerConfig kGreedy{.top_k = 0, .top_p = 1, .min_p = 0, .temperature = 0};

Logits logs(const std::vector<double>& probabilities) {
  Logits logits;
  for (double p : probabilities) logits.push_back(float(std::log(p)));
  return logits;
}

// The tokens that can be drawn: a temperature that makes all that passed the filters about equally likely.
std::set<std::int32_t> kept(SamplerConfig config, const Logits& logits,
                            const std::vector<std::int32_t>& history = {}) {
  config.temperature = 1000;
  Sampler sampler(config, 5);
  std::set<std::int32_t> seen;
  for (std::uint64_t at = 0; at < 100 * logits.size(); at++) seen.insert(sampler.next(logits, history, at));
  return seen;
}

using Set = std::set<std::int32_t>;

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

TEST_CASE("sampler: outputs that are not finite stop it") {
  for (const SamplerConfig& config : {kNeutral, kGreedy, SamplerConfig{}})
    for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
      try {
        Sampler(config, 1).next(Logits{1, 2, bad, 3}, {}, 17);
        CHECK(false);
      } catch (const engine::Error& error) {
        CHECK(error.code == engine::Exit::diverged);
        CHECK(std::string(error.what()).find("token 2 at position 17") != std::string::npos);
      }
    }
}
