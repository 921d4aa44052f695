#include "kernels/attention.h"
#include "kernels/attention_cpu.h"

namespace k {

Status run(Cpu, const CompressedForward& p) noexcept {
  if (!all_f32(p.out.t, p.q.t, p.ck.t, p.cv.t, p.memory.t)) return unsupported_dtype();
  const auto& s = p.shape;
  std::int64_t group = s.heads / s.kv_heads, learned = p.slots * s.dim, matrix = p.blocks * s.dim;
  const float *memory_k = f32(p.memory), *memory_v = memory_k + s.kv_heads * learned;
#pragma omp parallel for schedule(static)
  for (std::int64_t unit = 0; unit < s.batch * s.heads; unit++) {
    std::int64_t kv = unit / group, h = kv % s.kv_heads;
    float* logits = p.logits + unit * p.blocks;
    for (std::int64_t i = 0; i < s.length; i++) {
      std::int64_t row = unit * s.length + i, visible = std::min(p.blocks, (i + 1) / p.block);
      QueryForward query(p, row);
      query.attend(memory_k + h * learned, memory_v + h * learned, p.slots);
      query.attend(f32(p.ck) + kv * matrix, f32(p.cv) + kv * matrix, visible, logits);
      p.lse[row] = query.finish();
      choose_blocks(logits, visible, p.lse[row], p.top, p.selected + row * p.top);
    }
  }
  return {};
}

Status run(Cpu, const CompressedBackward& p) noexcept {
  if (!all_f32(p.dq.t, p.dck.t, p.dcv.t, p.dmemory.t, p.dout.t, p.out.t, p.q.t, p.ck.t, p.cv.t, p.memory.t))
    return unsupported_dtype();
  const auto& s = p.shape;
  std::int64_t group = s.heads / s.kv_heads, learned = p.slots * s.dim, matrix = p.blocks * s.dim;
  const float *memory_k = f32(p.memory), *memory_v = memory_k + s.kv_heads * learned;
#pragma omp parallel for schedule(static)
  for (std::int64_t kv = 0; kv < s.batch * s.kv_heads; kv++) {
    std::int64_t b = kv / s.kv_heads, h = kv % s.kv_heads;
    const float *ck = f32(p.ck) + kv * matrix, *cv = f32(p.cv) + kv * matrix;
    float *dck = accumulator(p.dck, kv * matrix, matrix), *dcv = accumulator(p.dcv, kv * matrix, matrix);
    float *part_k = nullptr, *part_v = nullptr;
    if (p.dmemory.p) {
      part_k = p.memory_parts + (2 * b * s.kv_heads + h) * learned;
      part_v = part_k + s.kv_heads * learned;
      std::fill_n(part_k, learned, 0.f);
      std::fill_n(part_v, learned, 0.f);
    }
    for (std::int64_t row = kv * group * s.length; row < (kv + 1) * group * s.length; row++) {
      std::int64_t i = row % s.length;
      QueryBackward query(p, row);
      // dL/dp of a pick adds p dL/dp to its logit's gradient and to what every logit of the row subtracts.
      for (std::int64_t j = row * p.top; p.d_importance && j < (row + 1) * p.top && p.selected[j] >= 0; j++) {
        std::int64_t w = p.selected[j] * s.dim;
        float weight = exp_f32(p.scale * dot(query.q, ck + w, s.dim) - p.lse[row]) * p.d_importance[j];
        query.delta += weight;
        if (query.dq) add_scaled(p.scale * weight, ck + w, query.dq, s.dim);
        if (dck) add_scaled(p.scale * weight, query.q, dck + w, s.dim);
      }
      query.attend(memory_k + h * learned, memory_v + h * learned, part_k, part_v, p.slots);
      query.attend(ck, cv, dck, dcv, std::min(p.blocks, (i + 1) / p.block));
    }
  }
  std::int64_t count = 2 * s.kv_heads * learned;
  float* dmemory = accumulator(p.dmemory, 0, count);
  for (std::int64_t b = 0; dmemory && b < s.batch; b++)
    add_scaled(1, p.memory_parts + b * count, dmemory, count);
  return {};
}

}  // namespace k
