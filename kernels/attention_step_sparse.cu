// The three branches of the sparse attention for one new token, in one launch (docs/model.md 1.2).
#include "kernels/attention_step.cuh"
#include "kernels/sample_math.h"

namespace k {
namespace {

template <class T> struct Step {
  T* y;
  const T *qkv, *gates;
  const std::int32_t* positions;
  const float* table;
  T *k, *v, *window_k, *pending_k, *ck, *cv;
  const T *memory, *place_k, *place_v, *compress_k, *compress_v, *bias_k, *bias_v;
  std::int32_t* selected;
  StepShape shape;
  int group;                             // query heads that share a key/value head
  int blocks;                            // that the cache has room for
  int block, shift, top, window, slots;  // shift: block = 2^shift, or -1
  float scale;
  __device__ int block_of(int key) const { return shift >= 0 ? key >> shift : key / block; }
};

constexpr int kMostPicks = 64;

struct Fixed {  // of shared memory; sums, logits and a block to be compressed follow
  float plain[256], adjacent[256], halves[256];  // the query
  float compressed_max, total[3];                // of the branches' weights
  std::int32_t picks[kMostPicks];
  int valid;
};
enum Branch { kCompressed, kSelected, kWindow };

// The warp's picks among logits [blocks], by falling logit, the lower block first among equals; then
// ascending. Each lane knows the best of its own that was not picked yet.
__device__ void choose(Fixed& shared, const float* logits, int blocks, int top, float lse) {
  const int lane = int(threadIdx.x) % 32;
  std::uint32_t last = 0xffffffffu, mine = 0;  // keys: of my last pick, of my best
  int last_block = -1, my_block = 0, valid = 0;
  const auto find_mine = [&] {
    mine = 0;
    for (int w = lane; w < blocks; w += 32)
      if (const std::uint32_t key = key_of(logits[w]);
          key > mine && (key < last || (key == last && w > last_block)))
        mine = key, my_block = w;
  };
  find_mine();
  for (; valid < min(top, blocks); valid++) {
    const std::uint32_t best = __reduce_max_sync(0xffffffffu, mine);
    if (best == 0) break;
    const int block = int(__reduce_min_sync(0xffffffffu, mine == best ? unsigned(my_block) : ~0u));
    if (!(fast_exp(logits[block] - lse) > 1e-10f)) break;
    if (mine == best && my_block == block) {
      last = mine, last_block = block;
      find_mine();
    }
    if (lane == 0) shared.picks[valid] = block;
  }
  if (lane == 0) shared.valid = valid;
}

// A block of key and value rows has become complete: y[o] = bias[o] + sum weight[o, d, j] (rows[j, d] +
// place[j, d]), an output a warp; `gathered` [dim * block] in shared memory.
template <class T> __device__ void compress(const T* rows, const T* place, const T* weight, const T* bias,
                                            float* gathered, T* y, int dim, int block) {
  const int width = dim * block, lane = int(threadIdx.x) % 32;
  __syncthreads();
  for (int i = int(threadIdx.x); i < width; i += kStepThreads)
    gathered[i % dim * block + i / dim] = to_float(rows[i]) + to_float(place[i]);
  __syncthreads();
  constexpr int n = kLanes<T>;
  const bool whole = width % n == 0 && reinterpret_cast<std::uintptr_t>(weight) % 16 == 0;
  for (int o = int(threadIdx.x) / 32; o < dim; o += kStepWarps) {
    const T* from = weight + std::int64_t(o) * width;
    float sum = 0;
#pragma unroll 4
    for (int i = lane * n; i < width; i += 32 * n) {
      const auto run = load_lanes<n>(from + i, width - i, whole);
#pragma unroll
      for (int e = 0; e < n; e++)
        if (i + e < width) sum = fmaf(run[e], gathered[i + e], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) y[o] = from_float<T>(sum + to_float(bias[o]));
  }
}

// All blocks of a group of heads write the same new rows to the cache, each for itself.
template <class L> __global__ void __launch_bounds__(kStepThreads, 4) sparse_step(Step<typename L::T> p) {
  using T = typename L::T;
  extern __shared__ float4 memory[];
  Fixed& shared = *reinterpret_cast<Fixed*>(memory);
  const StepToken<T> token(p.qkv, p.positions, p.table, p.shape, p.group);
  const int dim = int(p.shape.dim), d = int(threadIdx.x), warp = d / 32, position = token.position;
  const int block = p.block, own = p.block_of(position) * block, places = p.window + 1;
  const int visible = p.block_of(position + 1), window = min(position, p.window) + 1;
  T* k = p.k + token.unit * p.shape.capacity * dim;
  T* v = p.v + token.unit * p.shape.capacity * dim;
  T* window_k = p.window_k + token.unit * places * dim;
  T* pending_k = p.pending_k + token.unit * block * dim;
  T* ck = p.ck + token.unit * p.blocks * dim;
  T* cv = p.cv + token.unit * p.blocks * dim;
  float* sums = reinterpret_cast<float*>(&shared + 1);     // [3, warps, dim]
  float* compressed_logits = sums + 3 * kStepWarps * dim;  // [slots + blocks]
  float* window_logits = compressed_logits + p.slots + p.blocks;
  float* fine_logits = window_logits + places;  // [(top + 1) * block]
  float* gathered = fine_logits + (p.top + 1) * block;

  earlier_are_over();
  let_next_begin();
  float gates[3];
  if (d < dim) {
#pragma unroll
    for (int branch = 0; branch < 3; branch++) gates[branch] = to_float(p.gates[token.row * 3 + branch]);
    const auto turn = [&](const T* x, Rotation rotation) {
      return from_float<T>(turned(x, token.angles, dim, d, rotation));
    };
    shared.plain[d] = to_float(token.q[d]);
    shared.adjacent[d] = to_float(turn(token.q, Rotation::adjacent));
    shared.halves[d] = to_float(turn(token.q, Rotation::halves));
    k[std::int64_t(position) * dim + d] = turn(token.k, Rotation::adjacent);
    window_k[position % places * dim + d] = turn(token.k, Rotation::halves);
    pending_k[(position - own) * dim + d] = token.k[d];
    v[std::int64_t(position) * dim + d] = token.v[d];
  }
  if (position - own == block - 1) {
    const std::int64_t w = visible - 1, matrix = std::int64_t(dim) * dim * block;
    const auto part = [&](const T* x, std::int64_t size) { return x + token.kv * size; };
    compress(pending_k, part(p.place_k, block * dim), part(p.compress_k, matrix), part(p.bias_k, dim),
             gathered, ck + w * dim, dim, block);
    compress(v + w * block * dim, part(p.place_v, block * dim), part(p.compress_v, matrix),
             part(p.bias_v, dim), gathered, cv + w * dim, dim, block);
  }
  __syncthreads();

  const Share<L> share(dim);
  const T* memory_k = p.memory + std::int64_t(token.kv) * p.slots * dim;
  const T* memory_v = memory_k + p.shape.kv_heads * p.slots * dim;
  const auto compressed_row = [dim, slots = p.slots](const T* learned, const T* rows) {
    return [=](int i) { return i < slots ? learned + i * dim : rows + std::int64_t(i - slots) * dim; };
  };
  const int first_of_window = position + 1 - window, first_place = first_of_window % places;
  step_logits(share, shared.plain, p.slots + visible, p.scale, compressed_logits,
              compressed_row(memory_k, ck));
  step_logits(share, shared.halves, window, p.scale, window_logits, [=](int i) {
    const int place = first_place + i;
    return window_k + (place < places ? place : place - places) * dim;
  });
  __syncthreads();

  // One warp looks for blocks while the others go on with the window.
  if (warp == 0) {
    const Softmax softmax(compressed_logits, p.slots + visible);
    choose(shared, compressed_logits + p.slots, visible, p.top, softmax.max + logf(softmax.sum));
    if (d == 0) shared.compressed_max = softmax.max, shared.total[kCompressed] = softmax.sum;
  } else {
    const Softmax softmax(window_logits, window);
    if (d == 32) shared.total[kWindow] = softmax.sum;
    step_sum(
        share, window, sums + kWindow * kStepWarps * dim, 1,
        [&](int i) { return softmax.weight(window_logits[i]); },
        [=](int i) { return v + std::int64_t(first_of_window + i) * dim; });
  }
  __syncthreads();

  const int picked = shared.valid * block, fine = picked + position - own + 1;
  const auto fine_row = [&](const T* rows) {
    return [=, &p, &shared](int i) {
      const int pick = p.block_of(i),
                key = i < picked ? shared.picks[pick] * block + i - pick * block : own + i - picked;
      return rows + std::int64_t(key) * dim;
    };
  };
  step_logits(share, shared.adjacent, fine, p.scale, fine_logits, fine_row(k));
  step_sum(
      share, p.slots + visible, sums + kCompressed * kStepWarps * dim, 0,
      [&, max = shared.compressed_max](int i) { return fast_exp(compressed_logits[i] - max); },
      compressed_row(memory_v, cv));
  __syncthreads();

  const Softmax softmax(fine_logits, fine);
  if (d == 0) shared.total[kSelected] = softmax.sum;
  step_sum(
      share, fine, sums + kSelected * kStepWarps * dim, 0,
      [&](int i) { return softmax.weight(fine_logits[i]); }, fine_row(v));
  __syncthreads();

  if (d < dim) {
    float y = 0;
#pragma unroll
    for (int branch = 0; branch < 3; branch++) {
      const int first_warp = branch == kWindow ? 1 : 0;
      const float out =
          sum_of_warps(sums + branch * kStepWarps * dim, dim, d, first_warp) / shared.total[branch];
      y += sigmoid(gates[branch]) * to_float(from_float<T>(out));
    }
    p.y[token.row * dim + d] = from_float<T>(y);
  }
  if (p.selected && d < p.top) {
    int below = 0;  // ascending: after those that are less
    for (int j = 0; j < shared.valid; j++) below += d < shared.valid && shared.picks[j] < shared.picks[d];
    p.selected[token.row * p.top + (d < shared.valid ? below : d)] = d < shared.valid ? shared.picks[d] : -1;
  }
}

}  // namespace

Status run(Cuda cuda, const SparseStep& p) noexcept {
  const auto& s = p.shape;
  const bool power = std::has_single_bit(std::uint64_t(p.block));
  if (s.samples > 65535) return {1, "over 65,535 samples"};
  if (p.top > kMostPicks) return {1, "over 64 picks of a query"};
  const std::int64_t floats = 3 * kStepWarps * s.dim + p.slots + s.capacity / p.block + p.window + 1 +
                              (p.top + 1) * p.block + p.block * s.dim;
  const std::size_t bytes = sizeof(Fixed) + std::size_t(floats) * sizeof(float);
  if (bytes > std::size_t(220) << 10)
    return {1, "more blocks, or larger ones, than a card's shared memory holds"};
  return by_step_layout(
      s.dim,
      [&](auto layout) -> Status {
        using L = decltype(layout);
        using T = typename L::T;
        const Step<T> step{data<T>(p.y),
                           data<T>(p.qkv),
                           data<T>(p.gates),
                           p.positions,
                           p.table,
                           data<T>(p.k),
                           data<T>(p.v),
                           data<T>(p.window_k),
                           data<T>(p.pending_k),
                           data<T>(p.ck),
                           data<T>(p.cv),
                           data<T>(p.memory),
                           data<T>(p.place_k),
                           data<T>(p.place_v),
                           data<T>(p.compress_k),
                           data<T>(p.compress_v),
                           data<T>(p.bias_k),
                           data<T>(p.bias_v),
                           p.selected,
                           s,
                           int(s.heads / s.kv_heads),
                           int(s.capacity / p.block),
                           int(p.block),
                           power ? std::countr_zero(std::uint64_t(p.block)) : -1,
                           int(p.top),
                           int(p.window),
                           int(p.slots),
                           p.scale};
        if (const Status status = status_of(cudaFuncSetAttribute(
                sparse_step<L>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
            !status.ok())
          return status;
        return launch_early(sparse_step<L>, dim3(unsigned(s.heads), unsigned(s.samples)), kStepThreads, bytes,
                            cuda, step);
      },
      p.qkv.t, p.y, p.gates, p.k, p.v, p.window_k, p.pending_k, p.ck, p.cv, p.memory, p.place_k, p.place_v,
      p.compress_k, p.compress_v, p.bias_k, p.bias_v);
}

}  // namespace k
