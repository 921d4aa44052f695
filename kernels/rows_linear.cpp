#include "kernels/rows_linear.h"

#include "kernels/cpu.h"
#include "kernels/rmsnorm.h"
#include "kernels/rows_cpu.h"
#include "kernels/vector_math.h"

namespace k {

namespace {

// A piece of the weights is read from memory once for all rows. A thread's pieces are neighbours: memory is
// read in long runs.
void multiply(const RowsLinear& p, const RowsProduct& product, const float* x, bool plain) {
  constexpr std::int64_t kPiece = 16;
  const std::int64_t pieces = (product.out + kPiece - 1) / kPiece;
#pragma omp parallel for schedule(static) if (p.in * product.out >= kParallelFrom)
  for (std::int64_t piece = 0; piece < pieces; piece++) {
    const std::int64_t first = piece * kPiece, count = std::min(kPiece, product.out - first);
    for (std::int64_t r = 0; r < p.rows; r++) {
      float* y = f32(product.y) + r * product.out + first;
      float sums[kPiece];
      dot_rows(1, x + r * p.in, f32(product.weight) + first * p.in, count, p.in, sums);
      for (std::int64_t j = 0; j < count; j++) {
        float value = sums[j];
        if (product.bias.p) value += f32(product.bias)[first + j];
        if (!plain && p.residual.p) value += f32(p.residual)[r * product.out + first + j];
        y[j] = !plain && p.gelu ? value * normal_f32(value).below : value;
      }
    }
  }
}

Cost cost_of(const RowsLinear& p, const RowsProduct& product) {
  const double rows = double(p.rows), in = double(p.in), out = double(product.out);
  double bytes = in * out * double(size_of(product.weight.t)) + rows * out * double(size_of(product.y.t));
  if (product.bias.p) bytes += out * double(size_of(product.bias.t));
  return {2 * rows * in * out, bytes};
}

}  // namespace

Cost cost(const RowsLinear& p) {
  const double rows = double(p.rows);
  const Cost first = cost_of(p, p.first), second = cost_of(p, p.second);
  double bytes = first.bytes + second.bytes + rows * double(p.in) * double(size_of(p.x.t));
  if (p.norm.p) bytes += double(p.in) * double(size_of(p.norm.t));
  if (p.residual.p) bytes += rows * double(p.first.out) * double(size_of(p.residual.t));
  return {first.flops + second.flops, bytes};
}

Status run(Cpu cpu, const RowsLinear& p) noexcept {
  if (!all_f32(p.x.t, p.norm.t, p.residual.t, p.first.y.t, p.first.weight.t, p.first.bias.t, p.second.y.t,
               p.second.weight.t, p.second.bias.t))
    return unsupported_dtype();
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
  multiply(p, p.first, x, false);
  if (p.second.out > 0) multiply(p, p.second, x, true);
  return {};
}

}  // namespace k
