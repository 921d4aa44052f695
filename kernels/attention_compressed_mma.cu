// Attention to the memory and to compressed blocks on tensor cores, with the choice of blocks: bf16, at most
// 16 memory slots and 4 picks.
#include <limits>

#include "kernels/attention_compressed_mma.cuh"

namespace k {
namespace {

using namespace compressed;

constexpr int kMostPicks = 4;
constexpr int kNone = std::numeric_limits<int>::max();
constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr int kLogitStride = kTile + 8;  // of a query's logits in shared memory: 4 rows in different banks

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
  // The last of the best logits of the two lanes that share a query: what is below it has no chance.
  __device__ float bar() const {
    float least = INFINITY;
#pragma unroll
    for (int i = 0; i < kMostPicks; i++)
      least = fminf(least, fmaxf(logit[i], __shfl_xor_sync(~0u, logit[kMostPicks - 1 - i], 1)));
    return least;
  }
  // The best of the two lanes that share a query, in both of them.
  __device__ Best of_pair() const {
    Best own = *this, all;
#pragma unroll
    for (int rank = 0; rank < kMostPicks; rank++) {
      float x = own.logit[0];
      int w = own.index[0];
      const float other = __shfl_xor_sync(~0u, x, 1);
      const int other_w = __shfl_xor_sync(~0u, w, 1);
      if (other > x || (other == x && other_w < w)) x = other, w = other_w;
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

__device__ inline float quad_min(float x) {
  x = fminf(x, __shfl_xor_sync(~0u, x, 1));
  return fminf(x, __shfl_xor_sync(~0u, x, 2));
}

// Online softmax of a warp's 16 queries, and their best blocks.
template <int dim> struct Queries {
  mma::A q[dim / 16];
  mma::D out[dim / 8];
  float max[2] = {-INFINITY, -INFINITY},
        sum[2] = {0, 0};  // of the logits before scaling; of a lane's columns
  Best best;              // of half of the keys of the query lane / 2
  float bar = kLowest;

  // A tile of keys from `first` on; the lane's queries see the first seen[half] of all keys, the warp's the
  // first `end`.
  __device__ void attend(const bf* keys, const bf* values, int first, const int (&seen)[2], int least,
                         int end, float scale2, int slots, float* logits) {
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
    float top[2], reference[2], fourth[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float late = -INFINITY;  // of the keys that are never memory
#pragma unroll
      for (int n = 2; n < kTile / 8; n++) late = fmaxf(late, fmaxf(s[n].x[2 * half], s[n].x[2 * half + 1]));
      fourth[half] = quad_min(late);  // four of these blocks are at least as good
      top[half] = fmaxf(late, max[half]);
#pragma unroll
      for (int n = 0; n < 2; n++) top[half] = fmaxf(top[half], fmaxf(s[n].x[2 * half], s[n].x[2 * half + 1]));
      top[half] = quad_max(top[half]);
      reference[half] = top[half] == -INFINITY ? 0.f : __fmul_rn(scale2, top[half]);
    }
    if (logits) choose(s, fourth, first, slots, logits);
    if (__any_sync(~0u, top[0] > max[0] || top[1] > max[1]))  // else all factors are 1
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float shrink = exp2_approx(__fmul_rn(scale2, max[half]) - reference[half]);
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

  // Two lanes share a query, by turns of four keys: by way of shared memory, so that each goes through its
  // own candidates, which are few. `fourth`: what four blocks of the tile reach.
  __device__ void choose(const mma::D (&s)[kTile / 8], const float (&fourth)[2], int first, int slots,
                         float* logits) {
#pragma unroll
    for (int n = 0; n < kTile / 8; n++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        *reinterpret_cast<float2*>(logits + row_of(half) * kLogitStride + column_of(n, 0)) = {
            s[n].x[2 * half], s[n].x[2 * half + 1]};
    const int row = lane_id() / 2, holder = row % 8 * 4;
    const float upper = __shfl_sync(~0u, fourth[0], holder), lower = __shfl_sync(~0u, fourth[1], holder);
    const float least = fmaxf(bar, row < 8 ? upper : lower);
    __syncwarp();
    const float* own = logits + row * kLogitStride + lane_id() % 2 * 4;
    unsigned candidates = 0;
#pragma unroll
    for (int i = 0; i < kTile / 8; i++) {
      const float4 x = *reinterpret_cast<const float4*>(own + 8 * i);
      candidates |= unsigned(x.x >= least) << 4 * i | unsigned(x.y >= least) << (4 * i + 1) |
                    unsigned(x.z >= least) << (4 * i + 2) | unsigned(x.w >= least) << (4 * i + 3);
    }
    while (__any_sync(~0u, candidates != 0)) {
      if (candidates == 0) continue;
      const int bit = __ffs(int(candidates)) - 1, at = bit / 4 * 8 + bit % 4,
                key = first + lane_id() % 2 * 4 + at;
      candidates &= candidates - 1;
      if (key >= slots) best.offer(own[at], key);
    }
    bar = fmaxf(kLowest, best.bar());
    __syncwarp();
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

// A warp's own memory: its queries, then their logits, then their results.
template <int dim> inline constexpr int kOwnBytes = std::max(kTileElements<dim>* int(sizeof(bf)),
                                                             kRows* kLogitStride* int(sizeof(float)));

template <int dim> __global__ void __launch_bounds__(32 * kTeam<dim>, dim > 64 ? 1 : 2)
    forward(CompressedForward p) {
  const Team team = Team::of<dim>(p.shape);
  const unsigned unit = team.key_unit(p.shape);
  const KeyRows<dim> k(p, p.ck, unit, 0), v(p, p.cv, unit, 1);
  const Sight sight(p);
  extern __shared__ __align__(16) bf shared[];
  auto& stages = reinterpret_cast<Stages<dim>&>(*shared);
  bf* const own = shared + (kStagesBytes<dim> + int(threadIdx.x) / 32 * kOwnBytes<dim>) / int(sizeof(bf));

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
        fetch_tile<dim, kTeam<dim>>(to_k, rows - first, [&](int i) { return k(first + i); });
        fetch_tile<dim, kTeam<dim>>(to_v, rows - first, [&](int i) { return v(first + i); });
      },
      [&](int tile, const bf* tile_k, const bf* tile_v) {
        if (tile == 0) load_left<dim>(queries.q, own);
        if (team.count > 0 && tile * kTile < end)
          queries.attend(tile_k, tile_v, tile * kTile, seen, least, end, scale2, sight.slots,
                         p.top > 0 ? reinterpret_cast<float*>(own) : nullptr);
      });
  if (team.count <= 0) return;
  queries.finish(scale2);
  store<dim>(data<bf>(p.out) + team.row * dim, queries.out, team.count, false, own);
  if (lane_id() % 4 == 0)
#pragma unroll
    for (int half = 0; half < 2; half++)
      if (row_of(half) < team.count) p.lse[team.row + row_of(half)] = queries.max[half];
  if (p.top == 0) return;
  const int row = lane_id() / 2, holder = row % 8 * 4;
  const float upper = __shfl_sync(~0u, queries.max[0], holder),
              lower = __shfl_sync(~0u, queries.max[1], holder);
  Best all = queries.best.of_pair();
  if (lane_id() % 2 == 0 && row < team.count)
    all.write(p.selected + (team.row + row) * p.top, int(p.top), sight.slots, p.scale,
              row < 8 ? upper : lower);
}

}  // namespace

bool takes_mma(const CompressedForward& p) noexcept {
  return usual(p) && all_bf16(p.out, p.q, p.memory) && p.ck.t == DType::bf16 && p.cv.t == DType::bf16 &&
         aligned(p.out.p, p.q.p, p.ck.p, p.cv.p, p.memory.p);
}

Status run_mma(Cuda cuda, const CompressedForward& p) noexcept {
  return by_dim(p.shape.dim, [&](auto d) {
    constexpr int dim = decltype(d)::value;
    constexpr int kShared = kStagesBytes<dim> + kTeam<dim> * kOwnBytes<dim>;
    return launch_team(forward<dim>, teams<dim>(p.shape), 32 * kTeam<dim>, kShared, cuda, p);
  });
}

}  // namespace k
