#include "kernels/attention_step.h"

#include "kernels/attention_cpu.h"
#include "kernels/rope_cpu.h"

namespace k {
namespace {

// Where the new token's heads stand in its packed row, and what turns them.
struct NewToken {
  const float *q, *k, *v, *angles;
  std::int64_t position;

  template <class P> NewToken(const P& p, std::int64_t unit) {
    const auto& s = p.shape;
    const std::int64_t sample = unit / s.kv_heads, kv = unit % s.kv_heads, group = s.heads / s.kv_heads;
    const float* row = f32(p.qkv) + sample * (s.heads + 2 * s.kv_heads) * s.dim;
    q = row + kv * group * s.dim;
    k = row + (s.heads + kv) * s.dim;
    v = row + (s.heads + s.kv_heads + kv) * s.dim;
    position = p.positions[sample];
    angles = p.table + position * s.dim;
  }
};

// Row `place` of key/value head `unit`'s part of a cache tensor with so many rows.
float* row_of(Out cache, std::int64_t unit, std::int64_t rows, std::int64_t place, std::int64_t dim) {
  return f32(cache) + (unit * rows + place) * dim;
}

// y[o] = bias[o] + sum_{j,d} weight[o, d, j] (rows[j, d] + place[j, d]); `gathered` [dim * block] is scratch.
void compress_block(const float* rows, const float* place, const float* weight, const float* bias,
                    float* gathered, float* y, std::int64_t dim, std::int64_t block) {
  for (std::int64_t j = 0; j < block; j++)
    for (std::int64_t d = 0; d < dim; d++) gathered[d * block + j] = rows[j * dim + d] + place[j * dim + d];
  dot_rows(1, gathered, weight, dim, dim * block, y);
  for (std::int64_t o = 0; o < dim; o++) y[o] += bias[o];
}

// The new key and value into the caches; a block that is complete with them is compressed.
void take_in(const SparseStep& p, std::int64_t unit, const NewToken& token, float* gathered) {
  const auto& s = p.shape;
  const std::int64_t dim = s.dim, position = token.position, kv = unit % s.kv_heads;
  rotate<Rotation::adjacent, false>(token.k, row_of(p.k, unit, s.capacity, position, dim), token.angles, dim,
                                    1);
  rotate<Rotation::halves, false>(
      token.k, row_of(p.window_k, unit, p.window + 1, position % (p.window + 1), dim), token.angles, dim, 1);
  std::copy_n(token.k, dim, row_of(p.pending_k, unit, p.block, position % p.block, dim));
  std::copy_n(token.v, dim, row_of(p.v, unit, s.capacity, position, dim));
  if ((position + 1) % p.block != 0) return;

  const std::int64_t w = position / p.block, blocks = s.capacity / p.block, matrix = dim * dim * p.block;
  compress_block(row_of(p.pending_k, unit, p.block, 0, dim), f32(p.place_k) + kv * p.block * dim,
                 f32(p.compress_k) + kv * matrix, f32(p.bias_k) + kv * dim, gathered,
                 row_of(p.ck, unit, blocks, w, dim), dim, p.block);
  compress_block(row_of(p.v, unit, s.capacity, w * p.block, dim), f32(p.place_v) + kv * p.block * dim,
                 f32(p.compress_v) + kv * matrix, f32(p.bias_v) + kv * dim, gathered,
                 row_of(p.cv, unit, blocks, w, dim), dim, p.block);
}

}  // namespace

Cost cost(const SparseStep& p) {
  const auto& s = p.shape;
  const double keys = double(s.capacity / p.block + p.slots + (p.top + 1) * p.block + p.window + 1);
  const double work = double(s.samples * s.heads * s.dim) * keys;
  return {4 * work, 2 * double(s.samples * s.kv_heads * s.dim) * keys * double(size_of(p.k.t))};
}
Cost cost(const DenseStep& p) {
  const auto& s = p.shape;
  const double keys = double(s.capacity);
  return {4 * double(s.samples * s.heads * s.dim) * keys,
          2 * double(s.samples * s.kv_heads * s.dim) * keys * double(size_of(p.k.t))};
}
Cost cost(const CacheStore& p) {
  const double rows = double(p.kv_heads * std::min(p.length, p.places) * p.dim);
  return {0, rows * double(1 + p.samples) * double(size_of(p.to.t))};
}

Status run(Cpu, const SparseStep& p) noexcept {
  if (!all_f32(p.y.t, p.qkv.t, p.gates.t, p.k.t, p.v.t, p.window_k.t, p.pending_k.t, p.ck.t, p.cv.t,
               p.memory.t, p.place_k.t, p.place_v.t, p.compress_k.t, p.compress_v.t, p.bias_k.t, p.bias_v.t))
    return unsupported_dtype();
  const auto& s = p.shape;
  const std::int64_t dim = s.dim, group = s.heads / s.kv_heads, blocks = s.capacity / p.block;
#pragma omp parallel for schedule(static)
  for (std::int64_t unit = 0; unit < s.samples * s.kv_heads; unit++) {
    const NewToken token(p, unit);
    float* logits = p.scratch + unit * sparse_step_scratch(s, p.block, p.top);
    float *gathered = logits + blocks, *q_adjacent = gathered + p.block * dim, *q_halves = q_adjacent + dim;
    float* branches = q_halves + dim;  // [3, dim]
    auto* picks = reinterpret_cast<std::int32_t*>(branches + 3 * dim);
    take_in(p, unit, token, gathered);

    const std::int64_t position = token.position, kv = unit % s.kv_heads;
    const std::int64_t learned = p.slots * dim, visible = (position + 1) / p.block;
    const float *memory_k = f32(p.memory) + kv * learned, *memory_v = memory_k + s.kv_heads * learned;
    for (std::int64_t g = 0; g < group; g++) {
      const std::int64_t row = unit * group + g;  // of [samples, heads]
      const float* q = token.q + g * dim;
      rotate<Rotation::adjacent, false>(q, q_adjacent, token.angles, dim, 1);
      rotate<Rotation::halves, false>(q, q_halves, token.angles, dim, 1);

      QueryForward compressed(q, branches, dim, p.scale);
      compressed.attend(memory_k, memory_v, p.slots);
      compressed.attend(row_of(p.ck, unit, blocks, 0, dim), row_of(p.cv, unit, blocks, 0, dim), visible,
                        logits);
      choose_blocks(logits, visible, compressed.finish(), p.top, picks);
      if (p.selected) std::copy_n(picks, p.top, p.selected + row * p.top);

      QueryForward fine(q_adjacent, branches + dim, dim, p.scale);
      const auto attend = [&](std::int64_t first, std::int64_t count) {
        fine.attend(row_of(p.k, unit, s.capacity, first, dim), row_of(p.v, unit, s.capacity, first, dim),
                    count);
      };
      for (std::int64_t j = 0; j < p.top && picks[j] >= 0; j++) attend(picks[j] * p.block, p.block);
      attend(position / p.block * p.block, position % p.block + 1);
      fine.finish();

      QueryForward window(q_halves, branches + 2 * dim, dim, p.scale);
      for (std::int64_t first = std::max<std::int64_t>(0, position - p.window); first <= position;) {
        const std::int64_t place = first % (p.window + 1),
                           count = std::min(position + 1 - first, p.window + 1 - place);
        window.attend(row_of(p.window_k, unit, p.window + 1, place, dim),
                      row_of(p.v, unit, s.capacity, first, dim), count);
        first += count;
      }
      window.finish();

      const float* gates = f32(p.gates) + row * 3;
      const float a = sigmoid_f32(gates[0]), b = sigmoid_f32(gates[1]), c = sigmoid_f32(gates[2]);
      float* y = f32(p.y) + row * dim;
      for (std::int64_t d = 0; d < dim; d++)
        y[d] = a * branches[d] + b * branches[dim + d] + c * branches[2 * dim + d];
    }
  }
  return {};
}

Status run(Cpu, const DenseStep& p) noexcept {
  if (!all_f32(p.y.t, p.qkv.t, p.k.t, p.v.t)) return unsupported_dtype();
  const auto& s = p.shape;
  const std::int64_t group = s.heads / s.kv_heads;
#pragma omp parallel for schedule(static)
  for (std::int64_t unit = 0; unit < s.samples * s.kv_heads; unit++) {
    const NewToken token(p, unit);
    float *k = row_of(p.k, unit, s.capacity, 0, s.dim), *v = row_of(p.v, unit, s.capacity, 0, s.dim);
    rotate<Rotation::adjacent, false>(token.k, k + token.position * s.dim, token.angles, s.dim, 1);
    std::copy_n(token.v, s.dim, v + token.position * s.dim);
    float* q = p.parts + unit * group * (s.dim + 2);
    for (std::int64_t g = 0; g < group; g++) {
      rotate<Rotation::adjacent, false>(token.q + g * s.dim, q, token.angles, s.dim, 1);
      QueryForward query(q, f32(p.y) + (unit * group + g) * s.dim, s.dim, p.scale);
      query.attend(k, v, token.position + 1);
      query.finish();
    }
  }
  return {};
}

Status run(Cpu, const CacheStore& p) noexcept {
  if (!all_f32(p.to.t, p.from.t)) return unsupported_dtype();
#pragma omp parallel for schedule(static)
  for (std::int64_t unit = 0; unit < p.samples * p.kv_heads; unit++)
    for (std::int64_t t = std::max<std::int64_t>(0, p.length - p.places); t < p.length; t++)
      std::copy_n(f32(p.from) + unit % p.kv_heads * p.from_head + t * p.from_token, p.dim,
                  row_of(p.to, unit, p.places, t % p.places, p.dim));
  return {};
}

}  // namespace k
