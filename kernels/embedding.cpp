#include "kernels/embedding.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "kernels/cpu.h"

namespace k {

Cost cost(const EmbeddingForward& p) {
  double n = double(p.rows) * double(p.dim);
  return {0, n * double(size_of(p.table.t) + size_of(p.y.t)) + 4 * double(p.rows)};
}
Cost cost(const EmbeddingBackward& p) {
  double n = double(p.rows) * double(p.dim);
  double table = p.dtable.add ? 2 * n : double(p.vocab) * double(p.dim);
  return {n, n * double(size_of(p.dy.t)) + table * double(size_of(p.dtable.t)) + 4 * double(p.rows)};
}

Status run(Cpu, const EmbeddingForward& p) noexcept {
  if (!all_f32(p.y.t, p.table.t)) return unsupported_dtype();
#pragma omp parallel for schedule(static) if (p.rows * p.dim >= kParallelFrom)
  for (std::int64_t r = 0; r < p.rows; r++)
    std::memcpy(f32(p.y) + r * p.dim, f32(p.table) + p.ids[r] * p.dim, std::size_t(p.dim) * sizeof(float));
  return {};
}

// Each thread owns a range of columns and walks all rows in order: no sorting, no conflicts, one order of
// sums.
Status run(Cpu, const EmbeddingBackward& p) noexcept {
  if (!all_f32(p.dtable.t, p.dy.t)) return unsupported_dtype();
  if (!p.dtable.p) return {};
  float* table = f32(p.dtable);
  if (!p.dtable.add) {
#pragma omp parallel for schedule(static) if (p.vocab * p.dim >= kParallelFrom)
    for (std::int64_t v = 0; v < p.vocab; v++)
      std::memset(table + v * p.dim, 0, std::size_t(p.dim) * sizeof(float));
  }
#pragma omp parallel if (p.rows * p.dim >= kParallelFrom)
  {
    const std::int64_t threads = omp_get_num_threads();
    const std::int64_t share = ((p.dim + threads - 1) / threads + 15) / 16 * 16;  // whole cache lines
    const std::int64_t first = std::min(p.dim, omp_get_thread_num() * share);
    const std::int64_t width = std::min(share, p.dim - first);
    for (std::int64_t r = 0; r < p.rows; r++) {
      float* to = table + p.ids[r] * p.dim + first;
      const float* dy = f32(p.dy) + r * p.dim + first;
#pragma omp simd
      for (std::int64_t c = 0; c < width; c++) to[c] += dy[c];
    }
  }
  return {};
}

}  // namespace k
