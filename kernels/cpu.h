// What the CPU implementations share. Included by .cpp files only.
#pragma once
#include "kernels/types.h"

namespace k {

template <class... T> constexpr bool all_f32(T... t) noexcept { return ((t == DType::f32) && ...); }

inline const float* f32(In x) noexcept { return static_cast<const float*>(x.p); }
inline float* f32(Out y) noexcept { return static_cast<float*>(y.p); }
inline float* f32(Grad g) noexcept { return static_cast<float*>(g.p); }

// Below this many elements waking the other threads costs more than they save.
inline constexpr std::int64_t kParallelFrom = 16384;

// Bytes that writing a gradient moves: adding reads it first.
inline double traffic(Grad g, double count) noexcept {
  return g.p ? count * double(size_of(g.t)) * (g.add ? 2 : 1) : 0;
}

}  // namespace k
