// What the attention tests compare with: softmax attention by its definition in float64, gradients by central
// differences of that, and memory whose borders and untouched elements show.
#pragma once
#include <doctest/doctest.h>
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "kernels/attention.h"

namespace tests::attention {

using Doubles = std::vector<double>;
using Floats = std::vector<float>;

// Uniform in (-bound, bound), each a float exactly: kernel and formula read the same numbers.
inline Doubles random_values(std::uint64_t seed, std::int64_t count, double bound = 1) {
  Doubles x(static_cast<std::size_t>(count));
  std::uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;
  for (double& value : x) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    value = double(static_cast<float>((double(state >> 40) / double(1 << 24) * 2 - 1) * bound));
  }
  return x;
}

inline Floats to_floats(const Doubles& x) { return Floats(x.begin(), x.end()); }
inline k::In in(const Floats& x) { return {x.data(), k::DType::f32}; }

// An output: NaN before it is written, or given contents, between two guard bands.
class Guarded {
 public:
  explicit Guarded(std::int64_t count) : Guarded(Floats(std::size_t(count), std::nanf(""))) {}
  explicit Guarded(const Floats& contents) : memory_(contents.size() + 2 * kBand, kMark) {
    std::copy(contents.begin(), contents.end(), memory_.begin() + kBand);
  }
  float* data() { return memory_.data() + kBand; }
  k::Out out() { return {data(), k::DType::f32}; }
  k::Grad grad(bool add = false) { return {data(), k::DType::f32, add}; }
  Floats take() const {  // the contents, once the bands have been found intact
    for (std::size_t i = 0; i < kBand; i++) {
      REQUIRE(memory_[i] == kMark);
      REQUIRE(memory_[memory_.size() - 1 - i] == kMark);
    }
    return Floats(memory_.begin() + kBand, memory_.end() - kBand);
  }

 private:
  static constexpr std::size_t kBand = 32;
  static constexpr float kMark = 12345.678f;
  Floats memory_;
};

inline bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// Largest |got - expected| over max(1, largest |expected|); infinite for NaN or another size.
inline double distance(const Floats& got, const Doubles& expected) {
  if (got.size() != expected.size()) return INFINITY;
  double worst = 0, largest = 1;
  for (std::size_t i = 0; i < got.size(); i++) {
    double difference = std::fabs(double(got[i]) - expected[i]);
    if (!(difference <= worst)) worst = std::isnan(difference) ? INFINITY : difference;
    largest = std::max(largest, std::fabs(expected[i]));
  }
  return worst / largest;
}

// Gradient of `loss` in each element of x, which the loss reads.
inline Doubles numerical_gradient(Doubles& x, const std::function<double()>& loss) {
  constexpr double kStep = 1e-5;
  Doubles gradient;
  for (double& value : x) {
    double at = value;
    value = at + kStep;
    double above = loss();
    value = at - kStep;
    double below = loss();
    value = at;
    gradient.push_back((above - below) / (2 * kStep));
  }
  return gradient;
}

// The change of `loss` along a random direction of x against that of a gradient: for shapes too large for
// every element.
inline double directional_error(Doubles& x, const Floats& gradient, const std::function<double()>& loss) {
  constexpr double kStep = 1e-5;
  Doubles direction = random_values(x.size() + 77, std::int64_t(x.size())), at = x;
  double expected = 0, size = 0;
  for (std::size_t i = 0; i < x.size(); i++) {
    expected += double(gradient[i]) * direction[i];
    size += std::pow(double(gradient[i]) * direction[i], 2);
    x[i] = at[i] + kStep * direction[i];
  }
  double above = loss();
  for (std::size_t i = 0; i < x.size(); i++) x[i] = at[i] - kStep * direction[i];
  double below = loss();
  x = at;
  double error = std::fabs((above - below) / (2 * kStep) - expected);
  return std::isnan(error) ? INFINITY : error / (1 + std::sqrt(size));
}

inline double inner(const Doubles& a, const Doubles& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); i++) sum += a[i] * b[i];
  return sum;
}

inline Doubles sum_of(const Doubles& a, const Floats& b) {
  Doubles sum = a;
  for (std::size_t i = 0; i < sum.size(); i++) sum[i] += double(b[i]);
  return sum;
}

struct Key {  // one key and value that a query sees, both multiplied by `gate`
  const double *k, *v;
  double gate = 1;
};

struct Attended {
  Doubles out, p;  // [dim], [keys]
  double lse;
};

// One query by definition: two passes, nothing online.
inline Attended attend(const double* q, const std::vector<Key>& keys, std::int64_t dim, double scale) {
  Attended result{Doubles(std::size_t(dim), 0.), {}, 0};
  double largest = -INFINITY, sum = 0;
  for (const Key& key : keys) {
    double logit = 0;
    for (std::int64_t d = 0; d < dim; d++) logit += q[d] * key.gate * key.k[d];
    result.p.push_back(logit * scale);
    largest = std::max(largest, result.p.back());
  }
  for (double logit : result.p) sum += std::exp(logit - largest);
  result.lse = largest + std::log(sum);
  for (std::size_t j = 0; j < keys.size(); j++) {
    result.p[j] = std::exp(result.p[j] - result.lse);
    for (std::int64_t d = 0; d < dim; d++)
      result.out[std::size_t(d)] += result.p[j] * keys[j].gate * keys[j].v[d];
  }
  return result;
}

// What must hold for every op, given as a function from thread count to its results: the same bits again, and
// on two threads as on one.
inline std::vector<Floats> repeatable(const std::function<std::vector<Floats>()>& run) {
  int before = omp_get_max_threads();
  omp_set_num_threads(1);
  std::vector<Floats> first = run(), again = run();
  omp_set_num_threads(2);
  std::vector<Floats> threaded = run();
  omp_set_num_threads(before);
  REQUIRE(first.size() == again.size());
  for (std::size_t i = 0; i < first.size(); i++) {
    CAPTURE(i);
    CHECK(same_bits(first[i], again[i]));
    CHECK(same_bits(first[i], threaded[i]));
  }
  return first;
}

// Given a backward pass (gradients to add to, or null; bits of the wanted ones) and what it gives alone:
// adding gives the sum, and a gradient is the same whether or not the others are wanted, which then are not
// written.
template <class Backward> void adds_and_skips(const std::vector<Floats>& once, Backward backward) {
  const std::vector<Floats> twice = backward(&once, (1 << once.size()) - 1);
  for (std::size_t i = 0; i < once.size(); i++) {
    CAPTURE(i);
    CHECK(distance(twice[i], sum_of(Doubles(once[i].begin(), once[i].end()), once[i])) < 1e-6);
    const std::vector<Floats> alone = backward(nullptr, 1 << i);
    CHECK(same_bits(alone[i], once[i]));
    for (std::size_t other = 0; other < once.size(); other++)
      if (other != i) CHECK(std::isnan(alone[other][0]));
  }
}

}  // namespace tests::attention
