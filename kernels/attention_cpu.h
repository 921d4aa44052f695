// Private to the CPU attention kernels: one query's softmax over runs of consecutive keys. A branch differs
// only in which runs it feeds. Runs are cut into tiles on the stack, so nothing here depends on how long a
// sequence is; a query's arithmetic depends on its own runs alone, which makes causality exact to the bit.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/cpu.h"
#include "kernels/vector_math.h"

namespace k {

inline constexpr std::int64_t kTile = 64;  // keys whose logits are on the stack at a time

// Elements [first, first + count) of a gradient, ready to be added to; null if unwanted.
inline float* accumulator(Grad g, std::int64_t first, std::int64_t count) noexcept {
  if (!g.p) return nullptr;
  float* at = f32(g) + first;
  if (!g.add) std::fill_n(at, count, 0.f);
  return at;
}

// Calls f(dim), with a constant for the usual head size: loops of known length have no remainder to look
// after.
template <class F> auto by_dim(std::int64_t dim, F&& f) {
  return dim == 64 ? f(std::integral_constant<std::int64_t, 64>{}) : f(dim);
}

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

// One query's forward pass by online softmax: `out` holds sum_j exp(logit_j - max) v_j until finish().
struct QueryForward {
  const float* q;  // [dim]
  float* out;      // [dim]
  std::int64_t dim;
  float scale;
  float max = -std::numeric_limits<float>::infinity();
  float sum = 0;

  template <class P> QueryForward(const P& p, std::int64_t row)
      : q(f32(p.q) + row * p.shape.dim),
        out(f32(p.out) + row * p.shape.dim),
        dim(p.shape.dim),
        scale(p.scale) {
    std::fill_n(out, dim, 0.f);
  }

  // Keys and values [count, dim]; the scaled logits are copied to `logits` [count] if it is not null.
  void attend(const float* k, const float* v, std::int64_t count, float* logits = nullptr) {
    for (std::int64_t j = 0; j < count; j += kTile) {
      std::int64_t n = std::min(kTile, count - j);
      by_dim(dim,
             [&](auto known) { tile(k + j * dim, v + j * dim, n, known, logits ? logits + j : nullptr); });
    }
  }

  // Returns the log-sum-exp of the logits; without any key the output is 0 and the result -inf.
  float finish() {
    float inverse = sum == 0 ? 0 : 1 / sum;
    for (std::int64_t d = 0; d < dim; d++) out[d] *= inverse;
    return max + std::log(sum);
  }

 private:
  template <class N> void tile(const float* k, const float* v, std::int64_t n, N known, float* logits) {
    float s[kTile], top = max, added = 0;
    dot_rows(scale, q, k, n, known, s);
    if (logits) std::copy_n(s, n, logits);
    for (std::int64_t j = 0; j < n; j++) top = std::max(top, s[j]);
    if (top > max) {
      float shrink = exp_f32(max - top);
      sum *= shrink;
#pragma omp simd
      for (std::int64_t d = 0; d < known; d++) out[d] *= shrink;
      max = top;
    }
#pragma omp simd reduction(+ : added)
    for (std::int64_t j = 0; j < n; j++) {
      s[j] = exp_f32(s[j] - top);
      added += s[j];
    }
    sum += added;
    add_rows(s, v, n, known, out);
  }
};

// One query's backward pass: with P = exp(S - lse), dP_j = dout . v_j and dS_j = P_j (dP_j - delta), adds
// scale dS k to dq, scale dS q to dk and P dout to dv.
struct QueryBackward {
  const float *q, *dout;  // [dim]
  float* dq;              // [dim] or null
  std::int64_t dim;
  float scale, lse;
  float delta;  // sum_j P_j dL/dP_j: dout . out, and whatever else reaches P

  template <class P> QueryBackward(const P& p, std::int64_t row)
      : q(f32(p.q) + row * p.shape.dim),
        dout(f32(p.dout) + row * p.shape.dim),
        dq(accumulator(p.dq, row * p.shape.dim, p.shape.dim)),
        dim(p.shape.dim),
        scale(p.scale),
        lse(p.lse[row]),
        delta(dot(dout, f32(p.out) + row * dim, dim)) {}

  // Keys and values [count, dim]; dk, dv of the same shape, or null. Returns sum_j (dS_j S_j + P_j dP_j).
  float attend(const float* k, const float* v, float* dk, float* dv, std::int64_t count) {
    float importance = 0;
    for (std::int64_t j = 0; j < count; j += kTile) {
      std::int64_t n = std::min(kTile, count - j), at = j * dim;
      importance += by_dim(dim, [&](auto known) {
        return tile(k + at, v + at, dk ? dk + at : nullptr, dv ? dv + at : nullptr, n, known);
      });
    }
    return importance;
  }

 private:
  template <class N>
  float tile(const float* k, const float* v, float* dk, float* dv, std::int64_t n, N known) {
    float s[kTile], p[kTile], dp[kTile], ds[kTile], importance = 0;
    dot_rows(scale, q, k, n, known, s);
    dot_rows(1, dout, v, n, known, dp);
#pragma omp simd reduction(+ : importance)
    for (std::int64_t j = 0; j < n; j++) {
      p[j] = exp_f32(s[j] - lse);
      ds[j] = p[j] * (dp[j] - delta);
      importance += ds[j] * s[j] + p[j] * dp[j];
      ds[j] *= scale;
    }
    for (std::int64_t j = 0; dk && j < n; j++) add_scaled(ds[j], q, dk + j * dim, known);
    for (std::int64_t j = 0; dv && j < n; j++) add_scaled(p[j], dout, dv + j * dim, known);
    if (dq) add_rows(ds, k, n, known, dq);
    return importance;
  }
};

}  // namespace k
