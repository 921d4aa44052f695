// What the bodies of Sample compute alike, to the bit: every operation here is exact or rounded as IEEE says,
// and none is left to be contracted. Only the logarithms of noise_of are the device's own.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/philox.h"

#ifdef __CUDACC__
#define SAMPLE_ANYWHERE __host__ __device__
#else
#define SAMPLE_ANYWHERE
#endif

namespace k {

// Integers in the order of the logits, 0 equal to -0, that of -infinity above 0; not for NaN.
SAMPLE_ANYWHERE inline std::uint32_t key_of(float logit) {
  const float x = logit + 0.f;  // -0 becomes 0
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
SAMPLE_ANYWHERE inline float logit_of(std::uint32_t key) {
  const std::uint32_t bits = key >> 31 ? key & 0x7fffffffu : ~key;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Divided where positive, multiplied where negative (Keskar et al. 2019).
SAMPLE_ANYWHERE inline float penalized(float logit, double penalty) {
  return float(logit > 0 ? logit / penalty : logit * penalty);
}

// What a candidate weighs beside the best one: floor(e^(logit - top) 2^40), to 0.01 before the floor. As
// many as 2^23 weights add up in 64 bits.
SAMPLE_ANYWHERE inline std::uint64_t weight_of(float logit, float top) {
  const double x = logit == top ? 0 : double(logit) - double(top);
  if (!(x > -27.75)) return 0;  // 2^40 e^x is below 1
  const double n = std::rint(x * 0x1.71547652b82fep+0);
  double r = std::fma(n, -0x1.62e42fefa39efp-1, x);  // ln 2 in two parts
  r = std::fma(n, -0x1.abc9e3b39803fp-56, r);
  double y = 1 / 39916800.;  // Taylor's series, |r| <= ln 2 / 2
  y = std::fma(y, r, 1 / 3628800.);
  y = std::fma(y, r, 1 / 362880.);
  y = std::fma(y, r, 1 / 40320.);
  y = std::fma(y, r, 1 / 5040.);
  y = std::fma(y, r, 1 / 720.);
  y = std::fma(y, r, 1 / 120.);
  y = std::fma(y, r, 1 / 24.);
  y = std::fma(y, r, 1 / 6.);
  y = std::fma(y, r, 1 / 2.);
  y = std::fma(y, r, 1.);
  y = std::fma(y, r, 1.);
  const std::uint64_t bits = std::uint64_t(1023 + 40 + int(n)) << 52;  // 2^(n + 40)
  double scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return std::uint64_t(y * scale);
}

// The least sum of weights that has a share of top_p in `total` > 0; at least 1, which the best one reaches.
SAMPLE_ANYWHERE inline std::uint64_t share_of(std::uint64_t total, double top_p) {
  const double share = std::ceil(top_p * double(total));
  if (!(share > 1)) return 1;
  return share < double(total) ? std::uint64_t(share) : total;
}

// Standard Gumbel noise; the same for every filter. The uniform number is Rng::uniform's (engine/rng.h).
SAMPLE_ANYWHERE inline double noise_of(std::uint64_t seed, std::uint64_t position, std::uint64_t token) {
  const Philox random = philox(seed, position, token);
  const std::uint64_t bits = std::uint64_t(random.word[1]) << 32 | random.word[0];
  const double u = double(bits >> 11) * 0x1p-53;
  const double exponential = -std::log(1 - u);  // 1 - u is in (0, 1]
  return -std::log(exponential > 1e-300 ? exponential : 1e-300);
}

}  // namespace k

#undef SAMPLE_ANYWHERE
