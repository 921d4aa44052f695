#include "kernels/attention_sm90.cuh"
#include "kernels/attention_window_sm90.cuh"

namespace k {
namespace {

// The two numbers of every query (query_numbers), zeros past the end. kSharers lanes share a row.
template <class L> __global__ void __launch_bounds__(kThreads)
    number_kernel(float* to, const float* lse, const __nv_bfloat16* dout, const __nv_bfloat16* out,
                  Strides at, std::int64_t units, int heads, int length) {
  const int blocks = (length + sm90::kBlock - 1) / sm90::kBlock;
  const std::int64_t row = global_warp() * L::kRows + lane_id() / L::kSharers;
  const std::int64_t unit = row / (blocks * sm90::kBlock);
  const int i = int(row - unit * blocks * sm90::kBlock);
  const bool valid = unit < units && i < length;
  const std::int64_t batch = unit / heads, head = unit - batch * heads;
  const std::int64_t element = valid ? batch * at.batch + head * at.head + i * at.token : 0;
  float a[L::kOwn], b[L::kOwn];
  load_row<L>(dout + element, L::kDim, a);
  load_row<L>(out + element, L::kDim, b);
  const float delta = row_dot<L>(a, b);
  if (unit >= units || lane_id() % L::kSharers != 0) return;
  to = query_numbers(to, unit, i / sm90::kBlock, blocks) + i % sm90::kBlock;
  to[0] = valid ? lse[unit * length + i] * sm90::kLog2E : 0.f;
  to[sm90::kBlock] = valid ? delta : 0.f;
}

template <int D> Status write_numbers(Cuda cuda, const WindowBackward& p) noexcept {
  using L = Layout<__nv_bfloat16, D, true>;
  const AttentionShape& s = p.shape;
  const std::int64_t units = s.batch * s.heads,
                     rows = units * ((s.length + sm90::kBlock - 1) / sm90::kBlock) * sm90::kBlock;
  number_kernel<L><<<blocks_of_warps((rows + L::kRows - 1) / L::kRows), kThreads, 0, stream_of(cuda)>>>(
      p.delta, p.lse, data<__nv_bfloat16>(p.dout), data<__nv_bfloat16>(p.out),
      window_strides(p.order, s).outputs, units, int(s.heads), int(s.length));
  return launched();
}

}  // namespace

Status backward_sm90(Cuda cuda, const WindowBackward& p) noexcept {
  if (auto status = p.shape.dim == 64 ? write_numbers<64>(cuda, p) : write_numbers<128>(cuda, p);
      !status.ok())
    return status;
  if (p.dq.p)
    if (auto status = backward_queries_sm90(cuda, p); !status.ok()) return status;
  if (p.dk.p || p.dv.p) return backward_keys_sm90(cuda, p);
  return {};
}

}  // namespace k
