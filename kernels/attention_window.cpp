#include "kernels/attention.h"
#include "kernels/attention_cpu.h"

namespace k {
Status run(Cpu, const WindowForward& p) noexcept {
  if (p.order != Order::heads) return kHeadsOnly;
  if (!all_f32(p.out.t, p.q.t, p.k.t, p.v.t)) return unsupported_dtype();
  const auto& s = p.shape;
  std::int64_t group = s.heads / s.kv_heads, matrix = s.length * s.dim;
#pragma omp parallel for schedule(static)
  for (std::int64_t unit = 0; unit < s.batch * s.heads; unit++) {  // heads of one group are neighbours
    const float *k = f32(p.k) + unit / group * matrix, *v = f32(p.v) + unit / group * matrix;
    for (std::int64_t i = 0; i < s.length; i++) {
      std::int64_t row = unit * s.length + i, first = std::max<std::int64_t>(0, i - p.reach);
      QueryForward query(p, row);
      query.attend(k + first * s.dim, v + first * s.dim, i - first + 1);
      p.lse[row] = query.finish();
    }
  }
  return {};
}

Status run(Cpu, const WindowBackward& p) noexcept {
  if (p.order != Order::heads || p.turned) return kHeadsOnly;
  if (!all_f32(p.dq.t, p.dk.t, p.dv.t, p.dout.t, p.out.t, p.q.t, p.k.t, p.v.t)) return unsupported_dtype();
  const auto& s = p.shape;
  std::int64_t group = s.heads / s.kv_heads, matrix = s.length * s.dim;
#pragma omp parallel for schedule(static)
  for (std::int64_t unit = 0; unit < s.batch * s.kv_heads; unit++) {
    const float *k = f32(p.k) + unit * matrix, *v = f32(p.v) + unit * matrix;
    float *dk = accumulator(p.dk, unit * matrix, matrix), *dv = accumulator(p.dv, unit * matrix, matrix);
    for (std::int64_t row = unit * group * s.length; row < (unit + 1) * group * s.length; row++) {
      std::int64_t i = row % s.length, first = std::max<std::int64_t>(0, i - p.reach), at = first * s.dim;
      QueryBackward query(p, row);
      query.attend(k + at, v + at, dk ? dk + at : nullptr, dv ? dv + at : nullptr, i - first + 1);
    }
  }
  return {};
}

}  // namespace k
