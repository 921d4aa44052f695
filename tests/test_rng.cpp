#include "engine/rng.h"

#include <cmath>
#include <vector>

#include "tests/support.h"

namespace {

struct Moments {
  double mean = 0, variance = 0, kurtosis = 0, correlation = 0;  // of neighbours
};

Moments moments(const std::vector<double>& x) {
  Moments m;
  const double n = double(x.size());
  for (double v : x) m.mean += v / n;
  double fourth = 0;
  for (std::size_t i = 0; i < x.size(); i++) {
    const double d = x[i] - m.mean;
    m.variance += d * d / n;
    fourth += d * d * d * d / n;
    if (i > 0) m.correlation += d * (x[i - 1] - m.mean) / n;
  }
  m.kurtosis = fourth / (m.variance * m.variance);
  m.correlation /= m.variance;
  return m;
}

void check_words(const k::Philox& got, std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
  CHECK(got.word[0] == a);
  CHECK(got.word[1] == b);
  CHECK(got.word[2] == c);
  CHECK(got.word[3] == d);
}

}  // namespace

TEST_CASE("rng: known answers of Philox4x32-10 (Random123)") {
  check_words(k::philox(0, 0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
  const std::uint64_t ones = ~std::uint64_t(0);
  check_words(k::philox(ones, ones, ones), 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd);
  // counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0, each from its lowest word
  check_words(k::philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88), 0xd16cfe09, 0x94fdcceb,
              0x5001e420, 0x24126ea1);
  CHECK(engine::Rng{0}.bits(0, 0) == 0xe169c58d6627e8d5);
  CHECK(engine::Rng{0}.uniform(0, 0) == doctest::Approx(0.8805201978886142).epsilon(1e-15));
  CHECK(engine::Rng{0}.normal(0, 0) ==
        doctest::Approx(-1.62496344087104).epsilon(1e-14));  // Box-Muller by hand
}

TEST_CASE("rng: stream names are FNV-1a") {
  CHECK(engine::Rng::stream_of("") == 0xcbf29ce484222325);
  CHECK(engine::Rng::stream_of("a") == 0xaf63dc4c8601ec8c);
  CHECK(engine::Rng::stream_of("foobar") == 0x85944171f73967e8);
}

TEST_CASE("rng: uniform and normal numbers have their moments, in every direction") {
  constexpr std::size_t kCount = 200'000;  // the deviation of a mean is 0.0022 of the numbers' own
  const engine::Rng rng{42};
  for (int direction = 0; direction < 3; direction++) {
    CAPTURE(direction);
    std::vector<double> uniform, normal;
    for (std::uint64_t i = 0; i < kCount; i++) {
      const engine::Rng by_seed{i};
      const engine::Rng& r = direction == 2 ? by_seed : rng;
      const std::uint64_t stream = direction == 1 ? i : 7, index = direction == 0 ? i : 7;
      uniform.push_back(r.uniform(stream, index));
      normal.push_back(r.normal(stream, index));
    }
    bool in_range = true;
    for (double u : uniform) in_range &= u >= 0 && u < 1;
    CHECK(in_range);
    const Moments u = moments(uniform), n = moments(normal);
    CHECK(u.mean == doctest::Approx(0.5).epsilon(0.006));
    CHECK(u.variance == doctest::Approx(1 / 12.).epsilon(0.01));
    CHECK(u.kurtosis == doctest::Approx(1.8).epsilon(0.01));
    CHECK(std::fabs(u.correlation) < 0.01);
    CHECK(std::fabs(n.mean) < 0.01);
    CHECK(n.variance == doctest::Approx(1).epsilon(0.015));
    CHECK(n.kurtosis == doctest::Approx(3).epsilon(0.03));
    CHECK(std::fabs(n.correlation) < 0.01);
  }
}
