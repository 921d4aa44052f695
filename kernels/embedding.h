// Table lookup and its gradient, a scatter in a fixed order.
#pragma once
#include "kernels/types.h"

namespace k {

struct EmbeddingForward {   // y[r] = table[ids[r]]
  Out y;                    // [rows, dim]
  const std::int32_t* ids;  // [rows], each in [0, vocab)
  In table;                 // [vocab, dim]
  std::int64_t rows, vocab, dim;
};
struct EmbeddingBackward {  // dtable (=|+=) sum over the rows with that id, in row order
  Grad dtable;              // [vocab, dim], fp32
  In dy;                    // [rows, dim]
  const std::int32_t* ids;
  std::int32_t* tally = nullptr;  // scratch [embedding_tally(rows, vocab)], for CUDA only
  std::int64_t rows, vocab, dim;
};
constexpr std::int64_t embedding_tally(std::int64_t rows, std::int64_t vocab) noexcept {
  return 2 * vocab + 1 + 2 * rows;
}
Cost cost(const EmbeddingForward&);
Cost cost(const EmbeddingBackward&);
Status run(Cpu, const EmbeddingForward&) noexcept;
Status run(Cuda, const EmbeddingForward&) noexcept;
Status run(Cpu, const EmbeddingBackward&) noexcept;
Status run(Cuda, const EmbeddingBackward&) noexcept;

}  // namespace k
