#include "kernels/rope.h"

#include <cmath>

#include "kernels/cpu.h"
#include "kernels/rope_cpu.h"

namespace k {
namespace {

template <bool add>
void move(Rotation rotation, const float* x, float* y, const float* angles, std::int64_t dim, float turn) {
  switch (rotation) {
    case Rotation::none:
#pragma omp simd
      for (std::int64_t i = 0; i < dim; i++) y[i] = add ? y[i] + x[i] : x[i];
      break;
    case Rotation::adjacent: rotate<Rotation::adjacent, add>(x, y, angles, dim, turn); break;
    case Rotation::halves: rotate<Rotation::halves, add>(x, y, angles, dim, turn); break;
  }
}

// Calls f(part, packed, major, t) for every head of every token: part 0, 1, 2 is q, k, v; `packed` and
// `major` are where the head begins in the packed rows and in its head-major tensors. A thread takes a head
// of a sequence.
template <class P, class F> void for_each_head(const P& p, F f) {
  const std::int64_t columns = p.heads + 2 * p.kv_heads;
#pragma omp parallel for schedule(static) if (p.batch * columns * p.length * p.dim >= kParallelFrom)
  for (std::int64_t unit = 0; unit < p.batch * columns; unit++) {
    const std::int64_t b = unit / columns, column = unit % columns;
    const int part = column < p.heads ? 0 : column < p.heads + p.kv_heads ? 1 : 2;
    const std::int64_t heads = part == 0 ? p.heads : p.kv_heads;
    const std::int64_t h = part == 0 ? column : (column - p.heads) % heads;
    for (std::int64_t t = 0; t < p.length; t++)
      f(part, ((b * p.length + t) * columns + column) * p.dim, ((b * heads + h) * p.length + t) * p.dim, t);
  }
}

struct Moved {                        // what SplitHeads and MergeHeads move at least
  double head_major = 0, turned = 0;  // elements of head-major tensors, and of those that are turned
  template <class P, class Tensors> void add(const P& p, const Tensors& tensors, std::int64_t heads) {
    const double count = double(p.batch) * double(heads) * double(p.length) * double(p.dim);
    for (int r = 0; r < kRotations; r++)
      if (tensors[r].p) head_major += count, turned += r > 0 ? count : 0;
  }
};
template <class P> double packed_elements(const P& p) {
  return double(p.batch) * double(p.length) * double(p.heads + 2 * p.kv_heads) * double(p.dim);
}

}  // namespace

Cost cost(const RopeTable& p) {
  double angles = double(p.length) * double(p.dim / 2);
  return {3 * angles, 8 * angles};
}

Cost cost(const SplitHeads& p) {
  Moved moved;
  const Out v[kRotations] = {p.v};
  moved.add(p, p.q, p.heads), moved.add(p, p.k, p.kv_heads), moved.add(p, v, p.kv_heads);
  return {3 * moved.turned, double(size_of(p.x.t)) * (packed_elements(p) + moved.head_major)};
}

Cost cost(const MergeHeads& p) {
  Moved moved;
  moved.add(p, p.q, p.heads), moved.add(p, p.k, p.kv_heads);
  const double turned = moved.turned;
  moved.add(p, p.v, p.kv_heads);
  const double packed = packed_elements(p), added = moved.head_major - (p.x.add ? 0 : packed);
  return {3 * turned + added, double(size_of(p.x.t)) * moved.head_major + traffic(p.x, packed)};
}

Cost cost(const TurnHeads& p) {
  const double token = double(p.batch) * double(p.length) * double(p.dim);
  const double turned = token * double(p.heads + p.kv_heads);
  const double moved = p.y.p == p.x.p ? turned : packed_elements(p);
  return {3 * turned, 2 * double(size_of(p.x.t)) * moved};
}

Status run(Cpu, const RopeTable& p) noexcept {
  std::int64_t half = p.dim / 2;
  for (std::int64_t c = 0; c < half; c++) {
    auto frequency = static_cast<float>(std::pow(double(p.base), -2. * double(c) / double(p.dim)));
    for (std::int64_t t = 0; t < p.length; t++) {
      float angle = static_cast<float>(p.first_position + t) * frequency;
      float* at = p.table + (t * half + c) * 2;
      at[0] = static_cast<float>(std::cos(double(angle)));
      at[1] = static_cast<float>(std::sin(double(angle)));
    }
  }
  return {};
}

Status run(Cpu, const SplitHeads& p) noexcept {
  const Out v[kRotations] = {p.v};
  const Out* const parts[] = {p.q, p.k, v};
  if (!all_f32(p.x.t)) return unsupported_dtype();
  for (const Out* part : parts)
    for (int r = 0; r < kRotations; r++)
      if (part[r].p && !all_f32(part[r].t)) return unsupported_dtype();
  for_each_head(p, [&](int part, std::int64_t packed, std::int64_t major, std::int64_t t) {
    for (int r = 0; r < kRotations; r++)
      if (float* y = f32(parts[part][r]))
        move<false>(Rotation(r), f32(p.x) + packed, y + major, p.table + t * p.dim, p.dim, 1);
  });
  return {};
}

Status run(Cpu, const MergeHeads& p) noexcept {
  if (!p.x.p) return {};
  const In* const parts[] = {p.q, p.k, p.v};
  if (!all_f32(p.x.t)) return unsupported_dtype();
  for (const In* part : parts)
    for (int r = 0; r < kRotations; r++)
      if (part[r].p && !all_f32(part[r].t)) return unsupported_dtype();
  for_each_head(p, [&](int part, std::int64_t packed, std::int64_t major, std::int64_t t) {
    bool add = p.x.add;
    for (int r = 0; r < kRotations; r++) {
      const float* y = f32(parts[part][r]);
      if (!y) continue;
      const Rotation rotation = part == 2 ? Rotation::none : Rotation(r);
      const auto to = add ? move<true> : move<false>;
      to(rotation, y + major, f32(p.x) + packed, p.table + t * p.dim, p.dim, -1);
      add = true;
    }
  });
  return {};
}

Status run(Cpu, const TurnHeads& p) noexcept {
  if (!all_f32(p.y.t, p.x.t)) return unsupported_dtype();
  for_each_head(p, [&](int part, std::int64_t packed, std::int64_t, std::int64_t t) {
    if (part == 2 && p.y.p == p.x.p) return;
    move<false>(part == 2 ? Rotation::none : p.rotation, f32(p.x) + packed, f32(p.y) + packed,
                p.table + t * p.dim, p.dim, 1);
  });
  return {};
}

}  // namespace k
