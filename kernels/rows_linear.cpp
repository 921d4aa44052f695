#include "kernels/rows_linear.h"

#include "kernels/cpu.h"
#include "kernels/rmsnorm.h"
#include "kernels/rows_cpu.h"
#include "kernels/vector_math.h"

namespace k {

Cost cost(const RowsLinear& p) {
  const double rows = double(p.rows), in = double(p.in), out = double(p.out);
  double bytes = in * (rows + out) * double(size_of(p.x.t)) + rows * out * double(size_of(p.y.t));
  if (p.norm.p) bytes += in * double(size_of(p.norm.t));
  if (p.bias.p) bytes += out * double(size_of(p.bias.t));
  if (p.residual.p) bytes += rows * out * double(size_of(p.residual.t));
  return {2 * rows * in * out, bytes};
}

Status run(Cpu cpu, const RowsLinear& p) noexcept {
  if (!all_f32(p.y.t, p.x.t, p.weight.t, p.norm.t, p.bias.t, p.residual.t)) return unsupported_dtype();
  const float* x = f32(p.x);
  if (p.norm.p) {
    const RmsNormForward norm{.y = {p.normed, DType::f32},
                              .rstd = p.normed + p.rows * p.in,
                              .x = p.x,
                              .w = p.norm,
                              .rows = p.rows,
                              .dim = p.in,
                              .eps = p.eps};
    if (const Status status = run(cpu, norm); !status.ok()) return status;
    x = p.normed;
  }
  // A piece of the weights is read from memory once for all rows. A thread's pieces are neighbours: memory is
  // read in long runs.
  constexpr std::int64_t kPiece = 16;
  const std::int64_t pieces = (p.out + kPiece - 1) / kPiece;
#pragma omp parallel for schedule(static) if (p.in * p.out >= kParallelFrom)
  for (std::int64_t piece = 0; piece < pieces; piece++) {
    const std::int64_t first = piece * kPiece, count = std::min(kPiece, p.out - first);
    for (std::int64_t r = 0; r < p.rows; r++) {
      float* y = f32(p.y) + r * p.out + first;
      float sums[kPiece];
      dot_rows(1, x + r * p.in, f32(p.weight) + first * p.in, count, p.in, sums);
      for (std::int64_t j = 0; j < count; j++) {
        float value = sums[j];
        if (p.bias.p) value += f32(p.bias)[first + j];
        if (p.residual.p) value += f32(p.residual)[r * p.out + first + j];
        y[j] = p.gelu ? value * normal_f32(value).below : value;
      }
    }
  }
  return {};
}

}  // namespace k
