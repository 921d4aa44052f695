#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu.h"
#include "kernels/vector_math.h"

namespace k {
namespace {

constexpr std::int64_t kRun = 1024;  // exponentials summed in fp32 before adding to fp64

float largest(const float* x, std::int64_t n) {
  float top = x[0];
#pragma omp simd reduction(max : top)
  for (std::int64_t c = 0; c < n; c++) top = x[c] > top ? x[c] : top;
  return top;
}

float loss_of_row(const CrossEntropy& p, std::int64_t r) {
  float* x = f32(p.logits) + r * p.row_width;
  const std::int64_t target = p.targets[r];
  if (target < 0) {
    if (p.gradient) std::fill_n(x, p.row_width, 0.f);
    return 0;
  }
  const float top = largest(x, p.vocab), at_target = x[target];
  double total = 0;
  for (std::int64_t first = 0; first < p.vocab; first += kRun) {
    float* run = x + first;
    const std::int64_t n = std::min(kRun, p.vocab - first);
    float sum = 0;
    if (p.gradient) {
#pragma omp simd reduction(+ : sum)
      for (std::int64_t c = 0; c < n; c++) sum += run[c] = exp_f32(run[c] - top);
    } else {
#pragma omp simd reduction(+ : sum)
      for (std::int64_t c = 0; c < n; c++) sum += exp_f32(run[c] - top);
    }
    total += double(sum);
  }
  if (p.gradient) {
    const float scale = float(double(p.grad_scale) / total);
#pragma omp simd
    for (std::int64_t c = 0; c < p.vocab; c++) x[c] *= scale;
    x[target] -= p.grad_scale;
    std::fill(x + p.vocab, x + p.row_width, 0.f);
  }
  return float(std::log(total) + (double(top) - double(at_target)));
}

}  // namespace

Cost cost(const CrossEntropy& p) {
  double n = double(p.rows) * double(p.vocab), written = double(p.rows) * double(p.row_width);
  double size = double(size_of(p.logits.t));
  return {(p.gradient ? 5 : 4) * n, n * size + (p.gradient ? written * size : 0) + 8 * double(p.rows)};
}

Status run(Cpu, const CrossEntropy& p) noexcept {
  if (!all_f32(p.logits.t)) return unsupported_dtype();
#pragma omp parallel for schedule(static) if (p.rows * p.vocab >= kParallelFrom)
  for (std::int64_t r = 0; r < p.rows; r++) p.loss[r] = loss_of_row(p, r);
  return {};
}

}  // namespace k
