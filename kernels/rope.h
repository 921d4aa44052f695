// Rotary positions (docs/model.md 1.3), and the way between packed projection rows and head-major tensors.
#pragma once
#include "kernels/types.h"

namespace k {

enum class Rotation : std::uint8_t {
  none,
  adjacent,  // features (2c, 2c + 1) are a pair
  halves,    // features (c, c + dim / 2) are a pair
};

struct RopeTable {  // cos and sin of position * base^(-2c / dim); the product is rounded to fp32 once, as the
                    // reference does
  float* table;     // [length, dim / 2, 2]: cos, sin
  std::int64_t length, dim, first_position;
  float base;
};

// y[b, h, t, :] = rotate(x[b * length + t, first_column + h * dim ...], position t)
struct SplitHeads {
  Out y;               // [batch, heads, length, dim]
  In x;                // [batch * length, row_width]
  const float* table;  // [length, dim / 2, 2]; unused for Rotation::none
  Rotation rotation;
  std::int64_t batch, heads, length, dim, row_width, first_column;
};

// The transpose of SplitHeads: x[b * length + t, first_column + h * dim ...] (=|+=) rotate back(y[b, h, t,
// :])
struct MergeHeads {
  Grad x;  // [batch * length, row_width]: only the columns of these heads are written
  In y;    // [batch, heads, length, dim]
  const float* table;
  Rotation rotation;
  std::int64_t batch, heads, length, dim, row_width, first_column;
};

Cost cost(const RopeTable&);
Cost cost(const SplitHeads&);
Cost cost(const MergeHeads&);
Status run(Cpu, const RopeTable&) noexcept;
Status run(Cuda, const RopeTable&) noexcept;
Status run(Cpu, const SplitHeads&) noexcept;
Status run(Cuda, const SplitHeads&) noexcept;
Status run(Cpu, const MergeHeads&) noexcept;
Status run(Cuda, const MergeHeads&) noexcept;

}  // namespace k
