#include "kernels/attention.h"
#include "kernels/attention_cpu.h"

namespace k {

Status run(Cpu, const SelectedForward& p) noexcept {
  if (!all_f32(p.out.t, p.q.t, p.k.t, p.v.t)) return unsupported_dtype();
  const auto& s = p.shape;
  std::int64_t group = s.heads / s.kv_heads, matrix = s.length * s.dim;
#pragma omp parallel for schedule(static)
  for (std::int64_t unit = 0; unit < s.batch * s.heads; unit++) {
    const float *k = f32(p.k) + unit / group * matrix, *v = f32(p.v) + unit / group * matrix;
    for (std::int64_t i = 0; i < s.length; i++) {
      std::int64_t row = unit * s.length + i, own = i / p.block * p.block;
      QueryForward query(p, row);
      for (std::int64_t j = row * p.top; j < (row + 1) * p.top && p.selected[j] >= 0; j++) {
        std::int64_t at = p.selected[j] * p.block * s.dim;
        query.attend(k + at, v + at, p.block);
      }
      query.attend(k + own * s.dim, v + own * s.dim, i - own + 1);
      p.lse[row] = query.finish();
    }
  }
  return {};
}

Status run(Cpu, const SelectedBackward& p) noexcept {
  if (!all_f32(p.dq.t, p.dk.t, p.dv.t, p.dout.t, p.out.t, p.q.t, p.k.t, p.v.t)) return unsupported_dtype();
  const auto& s = p.shape;
  std::int64_t group = s.heads / s.kv_heads, matrix = s.length * s.dim;
#pragma omp parallel for schedule(static)
  for (std::int64_t kv = 0; kv < s.batch * s.kv_heads; kv++) {
    const float *k = f32(p.k) + kv * matrix, *v = f32(p.v) + kv * matrix;
    float *dk = accumulator(p.dk, kv * matrix, matrix), *dv = accumulator(p.dv, kv * matrix, matrix);
    for (std::int64_t row = kv * group * s.length; row < (kv + 1) * group * s.length; row++) {
      std::int64_t i = row % s.length, own = i / p.block * p.block;
      QueryBackward query(p, row);
      auto attend = [&](std::int64_t first, std::int64_t count) {
        std::int64_t key = first * s.dim;
        return query.attend(k + key, v + key, dk ? dk + key : nullptr, dv ? dv + key : nullptr, count);
      };
      for (std::int64_t j = row * p.top; j < (row + 1) * p.top; j++) {
        float importance = p.selected[j] < 0 ? 0 : attend(p.selected[j] * p.block, p.block);
        if (p.d_importance) p.d_importance[j] = importance;
      }
      attend(own, i - own + 1);
    }
  }
  return {};
}

}  // namespace k
