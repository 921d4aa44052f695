// Elementary functions as straight-line code, so that a loop over them becomes vector instructions (libm's
// are calls). NaN gives NaN. Needs IEEE rounding: do not compile with -ffast-math.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace k {

// e^x to 1.2e-7 relative, for x in [-87.3, 88].
inline float exp_in_range(float x) noexcept {
  const float kToInteger = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  float shifted = std::fma(x, 1.44269504f, kToInteger);
  float n = shifted - kToInteger;
  float r = std::fma(n, -0.693359375f, x);  // ln 2 in two parts: n times the first is exact
  r = std::fma(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;  // Cephes expf
  p = std::fma(p, r, 1.3981999507e-3f);
  p = std::fma(p, r, 8.3334519073e-3f);
  p = std::fma(p, r, 4.1665795894e-2f);
  p = std::fma(p, r, 1.6666665459e-1f);
  p = std::fma(p, r, 5.0000001201e-1f);
  p = std::fma(p, r * r, r) + 1.f;
  return p * std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) + 127u) << 23);  // p * 2^n
}

// The same for any x: 0 below -87.3, infinity above 88. NaN stays NaN.
inline float exp_f32(float x) noexcept {
  float y = exp_in_range(x);
  y = x < -87.3f ? 0.f : y;
  return x > 88.f ? std::bit_cast<float>(0x7f800000u) : y;
}

inline float sigmoid_f32(float x) noexcept { return 1.f / (1.f + exp_f32(-x)); }

struct Normal {
  float density, below;  // of the standard normal distribution: phi(x), Phi(x)
};

// Phi(-a) = phi(a) M(a), a >= 0. Mills' ratio M is smooth: M(a) sqrt(2 pi)^-1 (a + 3.5) is a polynomial in
// q = (a - 3.5) / (a + 3.5) to 7e-9 relative on [0, 14.5] (Remez), so the lower tail keeps its relative
// precision, which (1 + erf) / 2 loses.
inline Normal normal_f32(float x) noexcept {
  float a = std::fabs(x);
  a = a > 13.2f ? 13.2f : a;  // beyond, phi is below the smallest normal number
  float square = a * a, rest = std::fma(a, a, -square);
  float e = exp_in_range(-0.5f * square);
  e = std::fma(e, -0.5f * rest, e);  // what rounding the square left out
  float scale = 1.f / (a + 3.5f), q = (a - 3.5f) * scale;
  float p = 1.106886888e-4f;
  p = std::fma(p, q, 4.218976959e-4f);
  p = std::fma(p, q, -4.949420777e-4f);
  p = std::fma(p, q, -3.175310322e-3f);
  p = std::fma(p, q, 6.493115011e-3f);
  p = std::fma(p, q, 1.740637822e-2f);
  p = std::fma(p, q, -1.160530406e-1f);
  p = std::fma(p, q, 3.154250487e-1f);
  p = std::fma(p, q, -5.655617451e-1f);
  p = std::fma(p, q, 7.444160741e-1f);
  float tail = e * (p * scale);
  return {0.398942280f * e, x < 0 ? tail : 1.f - tail};
}

}  // namespace k
