// Attention to the memory and to compressed blocks on tensor cores, with the choice of blocks: bf16, at most
// 16 memory slots and 4 picks.
#include <limits>

#include "kernels/attention_compressed_mma.cuh"

namespace k {
namespace {

using namespace compressed;

constexpr int kMostPicks = 4;
constexpr int kNone = std::numeric_limits<int>::max();

// The best keys of a query so far, by falling logits, the lower index first among equals.
struct Best {
  float logit[kMostPicks];
  int index[kMostPicks];
  __device__ Best() {
#pragma unroll
    for (int i = 0; i < kMostPicks; i++) logit[i] = -INFINITY, index[i] = kNone;
  }
  __device__ void swap(int i) {
    const float x = logit[i];
    const int w = index[i];
    logit[i] = logit[i - 1], index[i] = index[i - 1];
    logit[i - 1] = x, index[i - 1] = w;
  }
  // A key later than all offered before.
  __device__ void offer(float x, int w) {
    if (!(x > logit[kMostPicks - 1])) return;
    logit[kMostPicks - 1] = x, index[kMostPicks - 1] = w;
#pragma unroll
    for (int i = kMostPicks - 1; i > 0; i--)
      if (logit[i] > logit[i - 1]) swap(i);
  }
  // The last of the best logits of the four lanes that share a query: what is not above it has no chance.
  __device__ float bar() const {
    float four[kMostPicks], other[kMostPicks];
#pragma unroll
    for (int i = 0; i < kMostPicks; i++) other[i] = __shfl_xor_sync(~0u, logit[i], 1);
#pragma unroll
    for (int i = 0; i < kMostPicks; i++) four[i] = fmaxf(logit[i], other[kMostPicks - 1 - i]);
    // The four best of two lanes, which fall and then rise at most once: two steps put them in order.
    const auto order = [&](int i, int j) {
      const float high = fmaxf(four[i], four[j]);
      four[j] = fminf(four[i], four[j]);
      four[i] = high;
    };
    order(0, 2), order(1, 3), order(0, 1), order(2, 3);
#pragma unroll
    for (int i = 0; i < kMostPicks; i++) other[i] = __shfl_xor_sync(~0u, four[i], 2);
    float least = INFINITY;
#pragma unroll
    for (int i = 0; i < kMostPicks; i++) least = fminf(least, fmaxf(four[i], other[kMostPicks - 1 - i]));
    return least;
  }
  // The best of the four lanes that share a query, in every one of them.
  __device__ Best of_quad() const {
    Best own = *this, all;
#pragma unroll
    for (int rank = 0; rank < kMostPicks; rank++) {
      float x = own.logit[0];
      int w = own.index[0];
#pragma unroll
      for (int lanes = 1; lanes < 4; lanes *= 2) {
        const float other = __shfl_xor_sync(~0u, x, lanes);
        const int other_w = __shfl_xor_sync(~0u, w, lanes);
        if (other > x || (other == x && other_w < w)) x = other, w = other_w;
      }
      all.logit[rank] = x, all.index[rank] = w;
      if (own.index[0] == w) {
#pragma unroll
        for (int i = 1; i < kMostPicks; i++) own.logit[i - 1] = own.logit[i], own.index[i - 1] = own.index[i];
        own.logit[kMostPicks - 1] = -INFINITY, own.index[kMostPicks - 1] = kNone;
      }
    }
    return all;
  }
  // The blocks (keys from `slots` on) of the first `top` with p > 1e-10 by rising index, then -1.
  __device__ void write(std::int32_t* picks, int top, int slots, float scale, float lse) {
#pragma unroll
    for (int i = 0; i < kMostPicks; i++)
      if (i >= top || !(exp2f(kLog2e * (scale * logit[i] - lse)) > 1e-10f)) index[i] = kNone;
#pragma unroll
    for (int pass = 1; pass < kMostPicks; pass++)
#pragma unroll
      for (int i = kMostPicks - 1; i >= pass; i--)
        if (index[i] < index[i - 1]) swap(i);
#pragma unroll
    for (int i = 0; i < kMostPicks; i++)
      if (i < top) picks[i] = index[i] == kNone ? -1 : index[i] - slots;
  }
};

// Online softmax of a warp's 16 queries, and their best blocks.
template <int dim> struct Queries {
  mma::A q[dim / 16];
  mma::D out[dim / 8];
  float max[2] = {-INFINITY, -INFINITY},
        sum[2] = {0, 0};  // of the logits before scaling; of a lane's columns
  Best best[2];
  float bar[2] = {-INFINITY, -INFINITY};  // of the tiles so far

  // A tile of keys from `first` on; the lane's queries see the first seen[half] of all keys, the warp's the
  // first `end`.
  __device__ void attend(const bf* keys, const bf* values, int first, const int (&seen)[2], int least,
                         int end, float scale2, int slots, bool choose) {
    mma::D s[kTile / 8];
#pragma unroll
    for (int part = 0; part < kTile; part += kPart) {
      if (first + part >= end) break;
#pragma unroll
      for (int step = 0; step < dim / 16; step++)
#pragma unroll
        for (int n = 0; n < kPart / 8; n += 2) {
          mma::B b[2];
          mma::right(b, keys + (part + 8 * n) * kStride<dim> + 16 * step, kStride<dim>);
          mma::multiply_add(s[part / 8 + n], q[step], b[0]);
          mma::multiply_add(s[part / 8 + n + 1], q[step], b[1]);
        }
    }
    if (first + kTile > least)
#pragma unroll
      for (int n = 0; n < kTile / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
          if (first + column_of(n, e % 2) >= seen[e / 2]) s[n].x[e] = -INFINITY;
    float top[2], reference[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      top[half] = max[half];
#pragma unroll
      for (int n = 0; n < kTile / 8; n++)
        top[half] = fmaxf(top[half], fmaxf(s[n].x[2 * half], s[n].x[2 * half + 1]));
      top[half] = quad_max(top[half]);
      reference[half] = top[half] == -INFINITY ? 0.f : scale2 * top[half];
    }
    if (choose) offer(s, first, slots);
    if (__any_sync(~0u, top[0] > max[0] || top[1] > max[1]))  // else all factors are 1
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float shrink = exp2_approx(scale2 * max[half] - reference[half]);
        max[half] = top[half];
        sum[half] *= shrink;
#pragma unroll
        for (int n = 0; n < dim / 8; n++) {
          out[n].x[2 * half] *= shrink;
          out[n].x[2 * half + 1] *= shrink;
        }
      }
#pragma unroll
    for (int step = 0; step < kTile; step += 16) {
      if (step % kPart == 0 && first + step >= end) break;
      mma::D(&p)[2] = reinterpret_cast<mma::D(&)[2]>(s[step / 8]);
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          p[n].x[e] = exp2_approx(fmaf(scale2, p[n].x[e], -reference[e / 2]));
          sum[e / 2] += p[n].x[e];
        }
      add_rows<dim>(out, mma::as_left(p[0], p[1]), values + step * kStride<dim>);
    }
  }

  // Every lane keeps the best of its columns. Most have no chance, and most runs of eight columns nobody who
  // has.
  __device__ void offer(const mma::D (&s)[kTile / 8], int first, int slots) {
    bool changed = false;
#pragma unroll
    for (int n = 0; n < kTile / 8; n++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        if (!__any_sync(~0u, fmaxf(s[n].x[2 * half], s[n].x[2 * half + 1]) > bar[half])) continue;
        changed = true;
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
          const int key = first + column_of(n, odd);
          if (key >= slots && s[n].x[2 * half + odd] > bar[half])
            best[half].offer(s[n].x[2 * half + odd], key);
        }
      }
    if (changed)
#pragma unroll
      for (int half = 0; half < 2; half++) bar[half] = best[half].bar();
  }

  // Divides by the sums; leaves the log-sum-exp, natural, in max. Without any key 0 and -infinity.
  __device__ void finish(float scale2) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float total = quad_sum(sum[half]), inverse = total == 0 ? 0.f : 1 / total;
#pragma unroll
      for (int n = 0; n < dim / 8; n++) {
        out[n].x[2 * half] *= inverse;
        out[n].x[2 * half + 1] *= inverse;
      }
      max[half] = total == 0 ? -INFINITY : (scale2 * max[half] + log2f(total)) / kLog2e;
    }
  }
};

template <int dim> __global__ void __launch_bounds__(32 * kTeam<dim>, dim > 64 ? 1 : 2)
    forward(CompressedForward p) {
  const Team team = Team::of<dim>(p.shape);
  const std::int64_t unit = team.unit / (p.shape.heads / p.shape.kv_heads);
  const KeyRows<dim> k(p, p.ck, unit, 0), v(p, p.cv, unit, 1);
  const Sight sight(p);
  extern __shared__ __align__(16) bf shared[];
  auto& stages = reinterpret_cast<Stages<dim>&>(*shared);
  bf* const own = shared + kStagesBytes<dim> / int(sizeof(bf)) + threadIdx.x / 32 * kTileElements<dim>;

  const int rows = sight.of(team.last);
  if (team.count > 0) fetch<dim>(own, data<bf>(p.q) + team.row * dim, team.count);
  Queries<dim> queries;
  const int least = sight.of(team.first), end = sight.of(team.first + team.count - 1);
  const int seen[2] = {sight.of(team.first + row_of(0)), sight.of(team.first + row_of(1))};
  const float scale2 = kLog2e * p.scale;
  walk_tiles<dim>(
      stages, 0, (rows + kTile - 1) / kTile,
      [&](int tile, bf* to_k, bf* to_v) {
        const int first = tile * kTile;
        fetch_tile<dim>(to_k, rows - first, [&](int i) { return k(first + i); });
        fetch_tile<dim>(to_v, rows - first, [&](int i) { return v(first + i); });
      },
      [&](int tile, const bf* tile_k, const bf* tile_v) {
        if (tile == 0) load_left<dim>(queries.q, own);
        if (team.count > 0 && tile * kTile < end)
          queries.attend(tile_k, tile_v, tile * kTile, seen, least, end, scale2, sight.slots, p.top > 0);
      });
  if (team.count <= 0) return;
  queries.finish(scale2);
  store<dim>(data<bf>(p.out) + team.row * dim, queries.out, team.count, false, own);
  if (lane_id() % 4 == 0)
#pragma unroll
    for (int half = 0; half < 2; half++)
      if (row_of(half) < team.count) p.lse[team.row + row_of(half)] = queries.max[half];
  if (p.top == 0) return;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    Best all = queries.best[half].of_quad();
    if (lane_id() % 4 == 0 && row_of(half) < team.count)
      all.write(p.selected + (team.row + row_of(half)) * p.top, int(p.top), sight.slots, p.scale,
                queries.max[half]);
  }
}

}  // namespace

bool takes_mma(const CompressedForward& p) noexcept {
  return usual(p) && all_bf16(p.out, p.q, p.memory) && p.ck.t == DType::bf16 && p.cv.t == DType::bf16 &&
         aligned(p.out.p, p.q.p, p.ck.p, p.cv.p, p.memory.p);
}

Status run_mma(Cuda cuda, const CompressedForward& p) noexcept {
  return by_dim(p.shape.dim, [&](auto d) {
    constexpr int dim = decltype(d)::value;
    constexpr int kShared = kStagesBytes<dim> + kTeam<dim> * kTileElements<dim> * int(sizeof(bf));
    return launch_team(forward<dim>, teams<dim>(p.shape), 32 * kTeam<dim>, kShared, cuda, p);
  });
}

}  // namespace k
