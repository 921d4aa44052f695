#include "kernels/basic.h"

#include <omp.h>

#include <algorithm>

#include "kernels/cpu.h"

namespace k {
namespace {
constexpr std::int64_t kColumns = 512;  // of a column sum at once
constexpr std::int64_t kRowBlock =
    64;  // rows summed before adding to the total: rounding grows with both, not all
constexpr std::int64_t kRun = 1024;  // squares summed in fp32 before adding to fp64
}  // namespace

Cost cost(const Accumulate& p) {
  double n = double(p.count);
  return {p.y.add ? n : 0, n * double(size_of(p.x.t)) + traffic(p.y, n)};
}
Cost cost(const Add& p) {
  double n = double(p.count);
  return {n, n * double(size_of(p.y.t) + size_of(p.a.t) + size_of(p.b.t))};
}
Cost cost(const ColumnSum& p) {
  double n = double(p.rows) * double(p.dim);
  return {n, n * double(size_of(p.x.t)) + traffic(p.y, double(p.dim))};
}
Cost cost(const SumSquares& p) { return {2 * double(p.count), double(p.count) * double(size_of(p.x.t))}; }

Status run(Cpu, const Accumulate& p) noexcept {
  if (!all_f32(p.y.t, p.x.t)) return unsupported_dtype();
  if (!p.y.p) return {};
  float* y = f32(p.y);
  const float* x = f32(p.x);
  if (p.y.add) {
#pragma omp parallel for simd schedule(static) if (p.count >= kParallelFrom)
    for (std::int64_t i = 0; i < p.count; i++) y[i] += x[i];
  } else {
#pragma omp parallel for simd schedule(static) if (p.count >= kParallelFrom)
    for (std::int64_t i = 0; i < p.count; i++) y[i] = x[i];
  }
  return {};
}

Status run(Cpu, const Add& p) noexcept {
  if (!all_f32(p.y.t, p.a.t, p.b.t)) return unsupported_dtype();
  float* y = f32(p.y);
  const float *a = f32(p.a), *b = f32(p.b);
#pragma omp parallel for simd schedule(static) if (p.count >= kParallelFrom)
  for (std::int64_t i = 0; i < p.count; i++) y[i] = a[i] + b[i];
  return {};
}

Status run(Cpu, const ColumnSum& p) noexcept {
  if (!all_f32(p.y.t, p.x.t)) return unsupported_dtype();
  if (!p.y.p) return {};
  float* y = f32(p.y);
  // Columns do not meet, so their split may depend on the threads: wide, for long reads, but enough for
  // everyone.
  const std::int64_t share = (p.dim + omp_get_max_threads() - 1) / omp_get_max_threads();
  const std::int64_t columns = std::min(kColumns, (share + 15) / 16 * 16);
#pragma omp parallel for schedule(static) if (p.rows * p.dim >= kParallelFrom)
  for (std::int64_t first = 0; first < p.dim; first += columns) {
    const std::int64_t width = std::min(columns, p.dim - first);
    alignas(64) float total[kColumns] = {};
    for (std::int64_t r0 = 0; r0 < p.rows; r0 += kRowBlock) {
      alignas(64) float block[kColumns] = {};
      for (std::int64_t r = r0; r < std::min(p.rows, r0 + kRowBlock); r++) {
        const float* x = f32(p.x) + r * p.dim + first;
#pragma omp simd
        for (std::int64_t c = 0; c < width; c++) block[c] += x[c];
      }
#pragma omp simd
      for (std::int64_t c = 0; c < width; c++) total[c] += block[c];
    }
    for (std::int64_t c = 0; c < width; c++) y[first + c] = p.y.add ? y[first + c] + total[c] : total[c];
  }
  return {};
}

Status run(Cpu, const SumSquares& p) noexcept {
  if (!all_f32(p.x.t)) return unsupported_dtype();
  const std::int64_t blocks = (p.count + kSumBlock - 1) / kSumBlock;
#pragma omp parallel for schedule(static) if (p.count >= kParallelFrom)
  for (std::int64_t b = 0; b < blocks; b++) {
    const std::int64_t end = std::min(p.count, (b + 1) * kSumBlock);
    double total = 0;
    for (std::int64_t first = b * kSumBlock; first < end; first += kRun) {
      const float* x = f32(p.x) + first;
      const std::int64_t n = std::min(kRun, end - first);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t i = 0; i < n; i++) sum += x[i] * x[i];
      total += double(sum);
    }
    p.partial[b] = total;
  }
  double sum = 0;
  for (std::int64_t b = 0; b < blocks; b++) sum += p.partial[b];
  *p.sum = sum;
  return {};
}

}  // namespace k
