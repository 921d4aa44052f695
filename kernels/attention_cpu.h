// Private to the CPU attention kernels: one query's softmax over runs of consecutive keys. A branch differs
// only in which runs it feeds. Runs are cut into tiles on the stack, so nothing here depends on how long a
// sequence is; a query's arithmetic depends on its own runs alone, which makes causality exact to the bit.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/cpu.h"
#include "kernels/rows_cpu.h"
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
  QueryForward(const float* q, float* out, std::int64_t dim, float scale)
      : q(q), out(out), dim(dim), scale(scale) {
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

// The picks of one query from its visible blocks' logits: p orders blocks as their logits do, but rounds more
// away.
inline void choose_blocks(const float* logits, std::int64_t visible, float lse, std::int64_t top,
                          std::int32_t* picks) {
  std::int64_t kept = 0;  // picks[0, kept) by falling logit, the lower index first among equals
  for (std::int64_t w = 0; top > 0 && w < visible; w++) {
    if (kept == top && !(logits[w] > logits[picks[kept - 1]])) continue;
    std::int64_t at = kept < top ? kept++ : kept - 1;
    for (; at > 0 && logits[w] > logits[picks[at - 1]]; at--) picks[at] = picks[at - 1];
    picks[at] = static_cast<std::int32_t>(w);
  }
  while (kept > 0 && !(exp_f32(logits[picks[kept - 1]] - lse) > 1e-10f)) kept--;
  std::sort(picks, picks + kept);
  std::fill(picks + kept, picks + top, -1);
}

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
