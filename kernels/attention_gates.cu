#include "kernels/attention_cuda.cuh"

namespace k {
namespace {

// A group of lanes takes one head of one token: `pair` counts them as the gates do, `head_row` is the row of
// the head-major branches.
template <class L> __device__ inline std::int64_t own_pair() {
  return global_warp() * L::kRows + lane_id() / L::kSharers;
}
template <class P> __device__ inline std::int64_t head_row(const P& p, std::int64_t pair) {
  const std::int64_t token = pair / p.heads, h = pair % p.heads;
  return (token / p.length * p.heads + h) * p.length + token % p.length;
}

template <class L> __global__ void __launch_bounds__(kThreads) forward(GatesForward p) {
  using T = typename L::T;
  const std::int64_t pair = own_pair<L>();
  if (pair >= p.batch * p.length * p.heads) return;
  const std::int64_t at = head_row(p, pair) * p.dim;
  const T* gates = data<T>(p.gates) + pair * 3;
  const In branches[3] = {p.compressed, p.selected, p.window};
  const int dim = int(p.dim);
  float y[L::kOwn] = {};
#pragma unroll
  for (int b = 0; b < 3; b++) {
    float x[L::kOwn];
    load_row<L>(data<T>(branches[b]) + at, dim, x);
    const float open = sigmoid(to_float(gates[b]));
#pragma unroll
    for (int e = 0; e < L::kOwn; e++) y[e] = fmaf(open, x[e], y[e]);
  }
  store_row<L>(data<T>(p.y) + pair * p.dim, dim, y, false);
}

template <class L> __global__ void __launch_bounds__(kThreads) backward(GatesBackward p) {
  using T = typename L::T;
  const std::int64_t pairs = p.batch * p.length * p.heads, own = own_pair<L>();
  const std::int64_t pair = min(own, pairs - 1);  // lanes without a pair take part in the sums
  const std::int64_t at = head_row(p, pair) * p.dim;
  const In branches[3] = {p.compressed, p.selected, p.window};
  const Grad dbranches[3] = {p.dcompressed, p.dselected, p.dwindow};
  const int dim = int(p.dim);
  float dy[L::kOwn];
  load_row<L>(data<T>(p.dy) + pair * p.dim, dim, dy);
#pragma unroll
  for (int b = 0; b < 3; b++) {
    const std::int64_t gate = pair * 3 + b;
    const float open = sigmoid(to_float(data<T>(p.gates)[gate]));
    float x[L::kOwn];
    if (p.dgates.p) {
      load_row<L>(data<T>(branches[b]) + at, dim, x);
      const float sum = row_dot<L>(dy, x);
      if (own < pairs && lane_id() % L::kSharers == 0)
        put(data<T>(p.dgates), gate, open * (1 - open) * sum, p.dgates.add);
    }
#pragma unroll
    for (int e = 0; e < L::kOwn; e++) x[e] = open * dy[e];
    if (own < pairs && dbranches[b].p) store_row<L>(data<T>(dbranches[b]) + at, dim, x, dbranches[b].add);
  }
}

template <class L, class P> unsigned grid(const P& p) noexcept {
  return blocks_of_warps((p.batch * p.length * p.heads + L::kRows - 1) / L::kRows);
}

}  // namespace

Status run(Cuda cuda, const GatesForward& p) noexcept {
  if (!all_of_type(p.y.t, p.gates)) return unsupported_dtype();
  return by_layout(
      p.dim,
      [&](auto layout) {
        using L = decltype(layout);
        forward<L><<<grid<L>(p), kThreads, 0, stream_of(cuda)>>>(p);
        return launched();
      },
      p.compressed, p.selected, p.window, p.y);
}

Status run(Cuda cuda, const GatesBackward& p) noexcept {
  if (!all_of_type(p.dy.t, p.gates, p.dgates)) return unsupported_dtype();
  return by_layout(
      p.dim,
      [&](auto layout) {
        using L = decltype(layout);
        backward<L><<<grid<L>(p), kThreads, 0, stream_of(cuda)>>>(p);
        return launched();
      },
      p.dy, p.compressed, p.selected, p.window, p.dcompressed, p.dselected, p.dwindow);
}

}  // namespace k
