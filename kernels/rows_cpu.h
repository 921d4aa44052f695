// Private to the CPU kernels: sums over rows of a matrix, in an order that depends on the row length alone.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

namespace k {

template <class N> float dot(const float* a, const float* b, N dim) noexcept {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < dim; i++) sum = std::fma(a[i], b[i], sum);
  return sum;
}

// y[j] = scale * x . rows[j, :], rows [count, dim]. Four rows at a time, the last one repeated to make four:
// equal rows give equal bits wherever they stand.
template <class N>
void dot_rows(float scale, const float* x, const float* rows, std::int64_t count, N dim, float* y) noexcept {
  for (std::int64_t j = 0; j < count; j += 4) {
    const float* a = rows + j * dim;
    const float* b = rows + std::min(j + 1, count - 1) * dim;
    const float* c = rows + std::min(j + 2, count - 1) * dim;
    const float* d = rows + std::min(j + 3, count - 1) * dim;
    float sum_a = 0, sum_b = 0, sum_c = 0, sum_d = 0;
#pragma omp simd reduction(+ : sum_a, sum_b, sum_c, sum_d)
    for (std::int64_t i = 0; i < dim; i++) {
      sum_a = std::fma(x[i], a[i], sum_a);
      sum_b = std::fma(x[i], b[i], sum_b);
      sum_c = std::fma(x[i], c[i], sum_c);
      sum_d = std::fma(x[i], d[i], sum_d);
    }
    const float sums[4] = {sum_a, sum_b, sum_c, sum_d};
    for (std::int64_t l = 0; l < std::min<std::int64_t>(4, count - j); l++) y[j + l] = scale * sums[l];
  }
}

template <class N> void add_scaled(float w, const float* x, float* y, N dim) noexcept {  // y += w x
#pragma omp simd
  for (std::int64_t i = 0; i < dim; i++) y[i] = std::fma(w, x[i], y[i]);
}

// y += sum_j w[j] rows[j, :], rows [count, dim]
template <class N>
void add_rows(const float* w, const float* rows, std::int64_t count, N dim, float* y) noexcept {
  std::int64_t j = 0;
  for (; j + 4 <= count; j += 4) {
    const float *a = rows + j * dim, *b = a + dim, *c = b + dim, *d = c + dim;
    const float wa = w[j], wb = w[j + 1], wc = w[j + 2], wd = w[j + 3];
#pragma omp simd
    for (std::int64_t i = 0; i < dim; i++)
      y[i] = std::fma(wd, d[i], std::fma(wc, c[i], std::fma(wb, b[i], std::fma(wa, a[i], y[i]))));
  }
  for (; j < count; j++) add_scaled(w[j], rows + j * dim, y, dim);
}

}  // namespace k
