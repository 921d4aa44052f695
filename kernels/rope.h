// Rotary positions (docs/model.md 1.3), and the way between packed projection rows and head-major tensors.
#pragma once
#include "kernels/types.h"

namespace k {

enum class Rotation : std::uint8_t {
  none,
  adjacent,  // features (2c, 2c + 1) are a pair
  halves,    // features (c, c + dim / 2) are a pair
};
inline constexpr int kRotations = 3;

struct RopeTable {  // cos and sin of position * base^(-2c / dim); the product is rounded to fp32 once, as the
                    // reference does
  float* table;     // [length, dim / 2, 2]: cos, sin
  std::int64_t length, dim, first_position;
  float base;
};

// A packed row of token t of sequence b is row b * length + t of [batch * length, (heads + 2 kv_heads) *
// dim]: the heads of q, then of k, then of v. dim is even. kv_heads may be 0: rows of q alone.

// q[r][b, h, t, :] = head h of q in the packed row, turned by Rotation r at position t; k likewise; v is not
// turned.
struct SplitHeads {
  Out q[kRotations] = {}, k[kRotations] = {};  // [batch, heads (k: kv_heads), length, dim]; null: not wanted
  Out v = {};                                  // [batch, kv_heads, length, dim], or null
  In x;
  const float* table;  // [length, dim / 2, 2]
  std::int64_t batch, heads, kv_heads, length, dim;
};

// The transpose of SplitHeads: a head of x (=|+=) the sum of its head-major tensors, each turned back. Null
// ones are left out; every head has at least one. The sum is in fp32 and in the order of the arrays, after
// what x holds, and is rounded once. Any of the tensors of v may be given: they differ in who made them only.
struct MergeHeads {
  Grad x;
  In q[kRotations] = {}, k[kRotations] = {}, v[kRotations] = {};
  const float* table;
  std::int64_t batch, heads, kv_heads, length, dim;
};

// y = the packed rows x, the heads of q and k turned. y may be x: v is left alone then. The CUDA body wants
// halves of heads that are multiples of 16 bytes.
struct TurnHeads {
  Out y;
  In x;
  Rotation rotation;
  const float* table;
  std::int64_t batch, heads, kv_heads, length, dim;
};

Cost cost(const RopeTable&);
Cost cost(const SplitHeads&);
Cost cost(const MergeHeads&);
Cost cost(const TurnHeads&);
Status run(Cpu, const RopeTable&) noexcept;
Status run(Cuda, const RopeTable&) noexcept;
Status run(Cpu, const SplitHeads&) noexcept;
Status run(Cuda, const SplitHeads&) noexcept;
Status run(Cpu, const MergeHeads&) noexcept;
Status run(Cuda, const MergeHeads&) noexcept;
Status run(Cpu, const TurnHeads&) noexcept;
Status run(Cuda, const TurnHeads&) noexcept;

}  // namespace k
