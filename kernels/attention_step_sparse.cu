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
  int group;   // query heads that share a key/value head
  int blocks;  // that the cache has room for
  int block, top, window, slots;
  float scale;
};

constexpr int kMostPicks = 64;

enum Branch { kCompressed, kSelected, kWindow, kBranches };  // in the order of the gates
struct Fixed {                                               // of shared memory
  float query[kBranches][256];                               // as each branch turns it
  float max[kBranches], scale[kBranches];  // of its logits; its gate over the sum of their exponentials
  std::int32_t picks[kMostPicks];
  int valid;
};

// The warp's picks among logits [blocks], by falling logit, the lower block first among equals; each one's
// tokens follow those of the one before. Each lane knows the best of its own that was not picked yet.
__device__ void choose(Fixed& shared, std::int32_t* tokens, const float* logits, int blocks, int block,
                       int top, float lse) {
  const int lane = int(threadIdx.x) % 32;
  std::uint32_t last = 0xffffffffu, mine = 0;  // keys: of my last pick, of my best; 0: there is none
  int last_pick = -1, my_pick = 0, valid = 0;
  bool picked = true;  // mine was: look for the next
#pragma unroll 1
  for (; valid < min(top, blocks); valid++) {
    if (picked) {
      mine = 0;
#pragma unroll 1
      for (int w = lane; w < blocks; w += 32)
        if (const std::uint32_t key = fast_exp(logits[w] - lse) > 1e-10f ? key_of(logits[w]) : 0;
            key > mine && (key < last || (key == last && w > last_pick)))
          mine = key, my_pick = w;
    }
    const std::uint32_t best = __reduce_max_sync(0xffffffffu, mine);
    if (best == 0) break;
    const std::uint32_t holders = __ballot_sync(0xffffffffu, mine == best);
    const bool one = (holders & (holders - 1)) == 0;
    const int pick = one ? __shfl_sync(0xffffffffu, my_pick, __ffs(int(holders)) - 1)
                         : int(__reduce_min_sync(0xffffffffu, mine == best ? unsigned(my_pick) : ~0u));
    picked = mine == best && my_pick == pick;
    if (picked) last = mine, last_pick = pick;
    if (lane == 0) shared.picks[valid] = pick;
#pragma unroll 1
    for (int t = lane; t < block; t += 32) tokens[valid * block + t] = pick * block + t;
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
    if (whole) {
#pragma unroll 4
      for (int i = lane * n; i < width; i += 32 * n) {
        const auto run = load_lanes<n>(from + i, n, true);
#pragma unroll
        for (int e = 0; e < n; e++) sum = fmaf(run[e], gathered[i + e], sum);
      }
    } else {
      for (int i = lane; i < width; i += 32) sum = fmaf(to_float(from[i]), gathered[i], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) y[o] = from_float<T>(sum + to_float(bias[o]));
  }
}

// All blocks of a group of heads write the same new rows to the cache, each for itself. A launch runs most
// instructions once, so that fetching them is what takes the time: one loop serves all branches.
template <class L> __global__ void __launch_bounds__(kStepThreads, 2) sparse_step(Step<typename L::T> p) {
  using T = typename L::T;
  extern __shared__ float4 memory[];
  Fixed& shared = *reinterpret_cast<Fixed*>(memory);
  const StepToken<T> token(p.qkv, p.positions, p.table, p.shape, p.group);
  const int dim = int(p.shape.dim), d = int(threadIdx.x), warp = d / 32, position = token.position;
  const int block = p.block, own_block = position / block, in_block = position - own_block * block;
  const int places = p.window + 1, place = position % places, window = min(position, p.window) + 1;
  const int visible = own_block + (in_block == block - 1);
  T* k = p.k + token.unit * p.shape.capacity * dim;
  T* v = p.v + token.unit * p.shape.capacity * dim;
  T* window_k = p.window_k + token.unit * places * dim;
  T* pending_k = p.pending_k + token.unit * block * dim;
  T* ck = p.ck + token.unit * p.blocks * dim;
  T* cv = p.cv + token.unit * p.blocks * dim;
  float* sums = reinterpret_cast<float*>(&shared + 1);                                    // [warps, dim]
  float* gathered = sums + kStepWarps * dim;                                              // [block * dim]
  std::int32_t* picked_tokens = reinterpret_cast<std::int32_t*>(gathered + block * dim);  // [top * block]
  float* logits = reinterpret_cast<float*>(picked_tokens + p.top * block);  // of all keys that are seen

  earlier_are_over();
  let_next_begin();
  if (d < kBranches) shared.scale[d] = sigmoid(to_float(p.gates[token.row * kBranches + d]));
  if (d < dim) {
    const auto turn = [&](const T* x, Rotation rotation) {
      return from_float<T>(turned(x, token.angles, dim, d, rotation));
    };
    shared.query[kCompressed][d] = to_float(token.q[d]);
    shared.query[kSelected][d] = to_float(turn(token.q, Rotation::adjacent));
    shared.query[kWindow][d] = to_float(turn(token.q, Rotation::halves));
    k[std::int64_t(position) * dim + d] = turn(token.k, Rotation::adjacent);
    window_k[place * dim + d] = turn(token.k, Rotation::halves);
    pending_k[in_block * dim + d] = token.k[d];
    v[std::int64_t(position) * dim + d] = token.v[d];
  }
  if (visible > own_block) {
    const std::int64_t matrix = std::int64_t(dim) * dim * block, at = std::int64_t(own_block) * dim;
#pragma unroll 1
    for (int part = 0; part < 2; part++) {
      const bool of_values = part == 1;
      const auto of_kv = [&](const T* keys, const T* values, std::int64_t size) {
        return (of_values ? values : keys) + token.kv * size;
      };
      compress(of_values ? v + at * block : pending_k, of_kv(p.place_k, p.place_v, block * dim),
               of_kv(p.compress_k, p.compress_v, matrix), of_kv(p.bias_k, p.bias_v, dim), gathered,
               (of_values ? cv : ck) + at, dim, block);
    }
  }
  __syncthreads();

  // The keys in the order of their logits: learned and complete blocks, the window, the picks, the own block.
  const int compressed = p.slots + visible, near = compressed + window;
  const int first_of_window = position + 1 - window, first_place = place + 1 < window ? place + 1 : 0;
  int picked = 0, all = near;
  const auto branch_of = [&](int i) { return i < compressed ? kCompressed : i < near ? kWindow : kSelected; };
  const auto token_of = [&](int i) {
    return i < near            ? first_of_window + i - compressed
           : i - near < picked ? picked_tokens[i - near]
                               : own_block * block + i - near - picked;
  };
  const T* learned = p.memory + std::int64_t(token.kv) * p.slots * dim;
  const auto compressed_row = [&](const T* slots, const T* blocks, int i) {
    return i < p.slots ? slots + i * dim : blocks + std::int64_t(i - p.slots) * dim;
  };
  const auto key_row = [&](int i) -> const T* {
    if (i < compressed) return compressed_row(learned, ck, i);
    const int ring = first_place + i - compressed;
    return i < near ? window_k + (ring < places ? ring : ring - places) * dim
                    : k + std::int64_t(token_of(i)) * dim;
  };
  const auto value_row = [&](int i) -> const T* {
    return i < compressed ? compressed_row(learned + p.shape.kv_heads * p.slots * dim, cv, i)
                          : v + std::int64_t(token_of(i)) * dim;
  };

  const Share<L> share(dim);
#pragma unroll 1
  for (int part = 0; part < 2; part++) {
    const bool fine = part == 1;  // what the compressed branch sees tells which blocks are selected
    step_logits(
        share, fine ? near : 0, all, p.scale, logits, [&](int i) { return shared.query[branch_of(i)]; },
        key_row);
    __syncthreads();
    if (warp < (fine ? 1 : 2)) {  // a warp to each branch
      const Branch branch = fine ? kSelected : warp == 0 ? kCompressed : kWindow;
      const int first = fine        ? near
                        : warp == 0 ? 0
                                    : compressed,
                end = fine        ? all
                      : warp == 0 ? compressed
                                  : near;
      const Softmax softmax(logits + first, end - first);
      if (d % 32 == 0) shared.max[branch] = softmax.max, shared.scale[branch] /= softmax.sum;
      if (branch == kCompressed)
        choose(shared, picked_tokens, logits + p.slots, visible, block, p.top,
               softmax.max + logf(softmax.sum));
    }
    __syncthreads();
    picked = shared.valid * block;
    all = near + picked + in_block + 1;
  }
  step_sum(
      share, all, sums,
      [&](int i) {
        const Branch branch = branch_of(i);
        return shared.scale[branch] * fast_exp(logits[i] - shared.max[branch]);
      },
      value_row);
  __syncthreads();
  if (d < dim) p.y[token.row * dim + d] = from_float<T>(sum_of_warps(sums, dim, d));

  if (p.selected && d < p.top) {
    int below = 0;  // ascending: after those that are less
    for (int j = 0; j < shared.valid; j++) below += d < shared.valid && shared.picks[j] < shared.picks[d];
    p.selected[token.row * p.top + (d < shared.valid ? below : d)] = d < shared.valid ? shared.picks[d] : -1;
  }
}

}  // namespace

Status run(Cuda cuda, const SparseStep& p) noexcept {
  const auto& s = p.shape;
  if (s.samples > 65535) return {1, "over 65,535 samples"};
  if (p.top > kMostPicks) return {1, "over 64 picks of a query"};
  const std::int64_t floats = kStepWarps * s.dim + p.block * s.dim + p.slots + s.capacity / p.block +
                              p.window + 1 + (2 * p.top + 1) * p.block;
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
