// Leaf types of the kernel layer: no engine, no CUDA headers.
//
// An op is a params struct and two overloads of run(): run(Cpu, p) in a .cpp, run(Cuda, p) in a .cu.
// Launchers allocate nothing, print nothing, throw nothing. Numerics: load in the storage type, compute and
// reduce in fp32 (or wider), in a fixed order, store rounded to nearest.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

namespace k {

enum class DType : std::uint8_t { f32, bf16, i32 };

constexpr std::size_t size_of(DType t) noexcept { return t == DType::bf16 ? 2 : 4; }

struct bf16 {  // same bits as __nv_bfloat16; rounds to nearest even
  std::uint16_t bits = 0;
  bf16() = default;
  explicit bf16(float f) {
    auto u = std::bit_cast<std::uint32_t>(f);
    bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = nan ? static_cast<std::uint16_t>((u >> 16) | 0x40u)
               : static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

struct In {  // read
  const void* p = nullptr;
  DType t = DType::f32;
};
struct Out {  // overwritten
  void* p = nullptr;
  DType t = DType::f32;
};
struct Grad {  // overwritten, or added to; p == nullptr: not wanted
  void* p = nullptr;
  DType t = DType::f32;
  bool add = false;
};

struct Status {  // what a launcher hands back; the engine turns it into an exception with context
  int code = 0;
  const char* what = nullptr;
  bool ok() const noexcept { return code == 0; }
};

struct Cost {  // what an op must compute and move at least
  double flops = 0, bytes = 0;
};

struct Cpu {};  // the first argument of every launcher picks the implementation
struct Cuda {   // a card's queue (kernels/runtime.h), opaque so that no caller needs CUDA's headers
  void* queue = nullptr;
};

template <class T> struct type { using is = T; };

inline Status unsupported_dtype() noexcept { return {1, "unsupported dtype"}; }

// The only dtype switch: calls f(type<float>{}) or f(type<bf16>{}).
template <class F> Status by_dtype(DType t, F&& f) noexcept {
  switch (t) {
    case DType::f32: return f(type<float>{});
    case DType::bf16: return f(type<bf16>{});
    default: return unsupported_dtype();
  }
}

}  // namespace k
