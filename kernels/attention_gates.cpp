#include "kernels/attention.h"
#include "kernels/attention_cpu.h"

namespace k {
Status run(Cpu, const GatesForward& p) noexcept {
  if (!all_f32(p.y.t, p.compressed.t, p.selected.t, p.window.t, p.gates.t)) return unsupported_dtype();
#pragma omp parallel for schedule(static) if (p.batch * p.heads * p.length * p.dim >= kParallelFrom)
  for (std::int64_t row = 0; row < p.batch * p.length; row++) {
    std::int64_t b = row / p.length, t = row % p.length;
    for (std::int64_t h = 0; h < p.heads; h++) {
      std::int64_t at = ((b * p.heads + h) * p.length + t) * p.dim;
      const float* gates = f32(p.gates) + (row * p.heads + h) * 3;
      const float *x = f32(p.compressed) + at, *y = f32(p.selected) + at, *z = f32(p.window) + at;
      float a = sigmoid_f32(gates[0]), c = sigmoid_f32(gates[1]), e = sigmoid_f32(gates[2]);
      float* out = f32(p.y) + (row * p.heads + h) * p.dim;
#pragma omp simd
      for (std::int64_t d = 0; d < p.dim; d++) out[d] = a * x[d] + c * y[d] + e * z[d];
    }
  }
  return {};
}

Status run(Cpu, const GatesBackward& p) noexcept {
  if (!all_f32(p.dcompressed.t, p.dselected.t, p.dwindow.t, p.dgates.t, p.dy.t, p.compressed.t, p.selected.t,
               p.window.t, p.gates.t))
    return unsupported_dtype();
  const In branches[3] = {p.compressed, p.selected, p.window};
  const Grad dbranches[3] = {p.dcompressed, p.dselected, p.dwindow};
#pragma omp parallel for schedule(static) if (p.batch * p.heads * p.length * p.dim >= kParallelFrom)
  for (std::int64_t row = 0; row < p.batch * p.length; row++) {
    std::int64_t b = row / p.length, t = row % p.length;
    for (std::int64_t h = 0; h < p.heads; h++) {
      std::int64_t at = ((b * p.heads + h) * p.length + t) * p.dim;
      const float* dy = f32(p.dy) + (row * p.heads + h) * p.dim;
      for (std::int64_t branch = 0; branch < 3; branch++) {
        std::int64_t gate = (row * p.heads + h) * 3 + branch;
        float open = sigmoid_f32(f32(p.gates)[gate]);
        if (float* dgate = accumulator(p.dgates, gate, 1))
          *dgate += open * (1 - open) * dot(dy, f32(branches[branch]) + at, p.dim);
        if (float* dbranch = accumulator(dbranches[branch], at, p.dim)) add_scaled(open, dy, dbranch, p.dim);
      }
    }
  }
  return {};
}

}  // namespace k
