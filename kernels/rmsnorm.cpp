#include "kernels/rmsnorm.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu.h"

namespace k {
namespace {

// dx of one row; adds to the partial sum of dw.
void backward_row(const RmsNormBackward& p, std::int64_t r, float* partial) {
  const std::int64_t dim = p.dim;
  const float *dy = f32(p.dy) + r * dim, *x = f32(p.x) + r * dim, *w = f32(p.w);
  const float rstd = p.rstd[r];
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (std::int64_t c = 0; c < dim; c++) {
    const float product = dy[c] * x[c];
    dot += product * w[c];
    partial[c] += product * rstd;
  }
  if (!p.dx.p) return;
  float* dx = f32(p.dx) + r * dim;
  const float scale = dot / float(dim) * rstd * rstd;
  if (p.dx.add) {
#pragma omp simd
    for (std::int64_t c = 0; c < dim; c++) dx[c] += rstd * (dy[c] * w[c] - scale * x[c]);
  } else {
#pragma omp simd
    for (std::int64_t c = 0; c < dim; c++) dx[c] = rstd * (dy[c] * w[c] - scale * x[c]);
  }
}

}  // namespace

Cost cost(const RmsNormForward& p) {
  double n = double(p.rows) * double(p.dim);
  return {4 * n, n * double(size_of(p.x.t) + size_of(p.y.t)) + double(p.dim) * double(size_of(p.w.t)) +
                     4 * double(p.rows)};
}
Cost cost(const RmsNormBackward& p) {
  double n = double(p.rows) * double(p.dim);
  return {10 * n, n * double(size_of(p.dy.t) + size_of(p.x.t)) + traffic(p.dx, n) +
                      4 * double(rmsnorm_groups(p.rows)) * double(p.dim) +
                      double(p.dim) * double(size_of(p.w.t)) + 4 * double(p.rows)};
}

Status run(Cpu, const RmsNormForward& p) noexcept {
  if (!all_f32(p.y.t, p.x.t, p.w.t)) return unsupported_dtype();
  const float* w = f32(p.w);
#pragma omp parallel for schedule(static) if (p.rows * p.dim >= kParallelFrom)
  for (std::int64_t r = 0; r < p.rows; r++) {
    const float* x = f32(p.x) + r * p.dim;
    float* y = f32(p.y) + r * p.dim;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t c = 0; c < p.dim; c++) sum += x[c] * x[c];
    const float rstd = 1.f / std::sqrt(sum / float(p.dim) + p.eps);
    p.rstd[r] = rstd;
#pragma omp simd
    for (std::int64_t c = 0; c < p.dim; c++) y[c] = x[c] * rstd * w[c];
  }
  return {};
}

Status run(Cpu, const RmsNormBackward& p) noexcept {
  if (!all_f32(p.dx.t, p.dy.t, p.x.t, p.w.t)) return unsupported_dtype();
  const std::int64_t groups = rmsnorm_groups(p.rows);
#pragma omp parallel for schedule(static) if (p.rows * p.dim >= kParallelFrom)
  for (std::int64_t g = 0; g < groups; g++) {
    // the rows with r * groups / rows == g
    const std::int64_t begin = (g * p.rows + groups - 1) / groups,
                       end = ((g + 1) * p.rows + groups - 1) / groups;
    float* partial = p.partial + g * p.dim;
    std::fill_n(partial, p.dim, 0.f);
    for (std::int64_t r = begin; r < end; r++) backward_row(p, r, partial);
  }
  return {};
}

}  // namespace k
