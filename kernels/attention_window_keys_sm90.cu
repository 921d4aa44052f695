// dK and dV of window attention, one tile of keys at a time. A block of threads keeps K and V of its keys, a
// consumer warpgroup 64 of them, and goes through blocks of 64 queries, from the newest to the oldest and
// within a block through the heads of the group: neighbours work on the same queries at the same time.
//
//   producer:   K and V of the next tile; then Q, dO and the numbers of the queries block by block
//   consumer:   S^T = K Q^T and dP^T = V dO^T  |  P^T = exp(S^T - lse)  |  dV += P^T dO
//               |  dS^T = P^T (dP^T - delta)  |  dK += dS^T Q
//
// A product's result is the next one's left operand as it stands, in registers, because keys are the rows of
// all of them. While one warpgroup computes exponentials, another's products run.
#include "kernels/attention_sm90.cuh"
#include "kernels/attention_window_sm90.cuh"
#include "kernels/tensor_map.cuh"

namespace k {
namespace {

using namespace sm90;

// K and V are read from shared memory by every product: held in registers, for heads of 64, they were no
// faster, and nvcc 13.0's code gave wrong sums.
template <int Dim, int Warpgroups, int Stages> struct Tiling {
  static constexpr int kDim = Dim;
  static constexpr int kWarpgroups = Warpgroups;  // consumers
  static constexpr int kKeys = kBlock * Warpgroups;
  static constexpr int kStages = Stages;  // blocks of 64 queries in flight
  static constexpr int kThreads = 128 * (Warpgroups + 1);
  static constexpr int kProducerRegisters = Warpgroups == 2 ? 24 : 32;    // all warpgroups together must fit
  static constexpr int kConsumerRegisters = Warpgroups == 2 ? 240 : 160;  // 65536
  static constexpr int kBytes = kBlockBytes<Dim>;
};

struct KeyTile {
  int batch;  // -1: no more tiles
  int kv_head, first_key;
  int block_begin, block_end;  // of queries
  bool ascending;

  __device__ __forceinline__ int block_at(int n) const {
    return ascending ? block_begin + n : block_end - 1 - n;
  }
};

template <class C> struct alignas(1024) SharedMemory {
  struct Keys {
    unsigned char k[C::kBytes], v[C::kBytes];  // dK and dV leave through the same space
  };
  struct Queries {
    unsigned char q[C::kBytes], dout[C::kBytes];
  };
  Keys keys[2][C::kWarpgroups];  // two tiles, so that the next one is there in time
  Queries queries[C::kStages];
  float numbers[C::kStages][2][kBlock];  // lse * log2(e), delta
  Handover slot[2], stage[C::kStages];
  KeyTile tile[2];  // what the slot holds
};

struct Arguments {
  CUtensorMap q, k, v, dout, dk, dv;
  const float* numbers;  // of the queries, in this many blocks a head
  int length, blocks, heads, kv_heads, group;
  int window;  // keys that a query sees, the own one included
  float scale, scale_log2;
  bool want_dk, want_dv, add_dk, add_dv;
  const float* turned;  // null, or the table by which dK is turned back
  Schedule schedule;
};

template <class C> __device__ __forceinline__ KeyTile tile_at(const Arguments& a, int row) {
  const auto place = a.schedule.at(a.schedule.own(row));
  KeyTile t;
  t.batch = place.unit / a.kv_heads;
  t.kv_head = place.unit - t.batch * a.kv_heads;
  t.first_key = place.step * C::kKeys;
  const int last_key = min(t.first_key + C::kKeys, a.length) - 1;
  t.block_begin = t.first_key / kBlock;
  t.block_end = min(a.length - 1, last_key + a.window - 1) / kBlock + 1;
  t.ascending = row % 2;
  return t;
}

// Calls tile(t) for the tiles of this block of threads and block(t, query, head) for the blocks of each.
template <class C, class OnTile, class OnBlock>
__device__ __forceinline__ void for_each_block(const Arguments& a, OnTile on_tile, OnBlock on_block) {
  for (int row = 0; !a.schedule.ends_before(row); row++) {
    if (a.schedule.own(row) >= a.schedule.tiles) continue;
    const KeyTile t = tile_at<C>(a, row);
    on_tile(t);
    for (int n = 0; n < t.block_end - t.block_begin; n++)
      for (int i = 0; i < a.group; i++) on_block(t, t.block_at(n) * kBlock, t.kv_head * a.group + i);
  }
}

template <class C> __device__ __forceinline__ void produce(const Arguments& a, SharedMemory<C>& s) {
  constexpr int D = C::kDim;
  Ring<2> slot;
  Ring<C::kStages> ring;
  for_each_block<C>(
      a,
      [&](const KeyTile& t) {
        const std::uint32_t full = s.slot[slot.index].begin(slot.parity, C::kWarpgroups * 2 * C::kBytes,
                                                            [&] { s.tile[slot.index] = t; });
        for (int w = 0; w < C::kWarpgroups; w++) {
          auto& to = s.keys[slot.index][w];
          const int key = t.first_key + w * kBlock;
          load_tile<D>(smem_address(to.k), &a.k, full, kBlock, key, t.kv_head, t.batch);
          load_tile<D>(smem_address(to.v), &a.v, full, kBlock, key, t.kv_head, t.batch);
        }
        slot.advance();
      },
      [&](const KeyTile& t, int query, int head) {
        const std::uint32_t full =
            s.stage[ring.index].begin(ring.parity, 2 * C::kBytes + int(sizeof s.numbers[0]));
        auto& to = s.queries[ring.index];
        bulk_load(smem_address(s.numbers[ring.index]),
                  query_numbers(a.numbers, std::int64_t(t.batch) * a.heads + head, query / kBlock, a.blocks),
                  full, int(sizeof s.numbers[0]));
        load_tile<D>(smem_address(to.q), &a.q, full, kBlock, query, head, t.batch);
        load_tile<D>(smem_address(to.dout), &a.dout, full, kBlock, query, head, t.batch);
        ring.advance();
      });
  s.slot[slot.index].begin(slot.parity, 0, [&] { s.tile[slot.index].batch = -1; });
}

template <class C>
__device__ __forceinline__ void consume(const Arguments& a, SharedMemory<C>& s, int warpgroup) {
  constexpr int D = C::kDim;
  constexpr int kStoreBarrier = 1;  // + warpgroup
  const Fragment f;

  Ring<2> slot;
  Ring<C::kStages> ring;
  bool store_pending = false;

  constexpr int kStageStep = int(sizeof(typename SharedMemory<C>::Queries)) >> 4;
  const std::uint64_t q_rows = descriptor_k_major(smem_address(s.queries[0].q));
  const std::uint64_t q_columns = descriptor_mn_major(smem_address(s.queries[0].q), kBlockPanel);
  const std::uint64_t dout_rows = descriptor_k_major(smem_address(s.queries[0].dout));
  const std::uint64_t dout_columns = descriptor_mn_major(smem_address(s.queries[0].dout), kBlockPanel);

  float dk[D / 2], dv[D / 2], score[kBlock / 2], dp[kBlock / 2];
  std::uint32_t p[kBlock / 4], ds[kBlock / 4];

  for (;; slot.advance()) {
    s.slot[slot.index].wait(slot.parity);
    const KeyTile& t = s.tile[slot.index];
    if (t.batch < 0) break;

    const std::uint32_t k_block = smem_address(s.keys[slot.index][warpgroup].k);
    const std::uint32_t v_block = smem_address(s.keys[slot.index][warpgroup].v);
    if (store_pending && f.thread == 0) {  // by now dK and dV of the tile before have left: its slot is free
      tma_store_wait_read();
      s.slot[slot.index ^ 1].release();
    }

    // The blocks that see one of this warpgroup's keys, [own_begin, own_end).
    const int first_key = t.first_key + kBlock * warpgroup;
    const int own_begin = first_key / kBlock;
    const int own_end = min(t.block_end, (first_key + kBlock - 1 + a.window - 1) / kBlock + 1);
    const int older = min(own_begin, t.block_end) - t.block_begin, newer = t.block_end - own_end;

    // Blocks that only other warpgroups of this tile need.
    auto skip_blocks = [&](int count) {
      for (int i = 0; i < count * a.group; i++) {
        s.stage[ring.index].wait(ring.parity);
        __syncwarp();
        if (f.lane == 0) s.stage[ring.index].release();
        ring.advance();
      }
    };
    skip_blocks(t.ascending ? older : newer);

#pragma unroll
    for (int i = 0; i < D / 2; i++) dk[i] = dv[i] = 0.0f;

    for (int n = own_begin; n < own_end; n++) {
      const int block = t.ascending ? n : own_end - 1 - (n - own_begin);
      const int age = block * kBlock + f.column - (first_key + f.row);  // of the thread's first element
      const bool whole = block > own_begin && block * kBlock + kBlock - 1 - first_key < a.window;
      for (int head = 0; head < a.group; head++) {
        s.stage[ring.index].wait(ring.parity);
        const int at = ring.index * kStageStep;
        pin(score);
        pin(dp);
        wgmma_fence();
        issue_dots<D, kBlockPanel>(score, descriptor_k_major(k_block), q_rows + at);
        issue_dots<D, kBlockPanel>(dp, descriptor_k_major(v_block), dout_rows + at);
        wgmma_wait<1>();
        pin(score);
        if (!whole) {
          const int ages[2] = {age, age - 8};
          mask_scores<-1>(score, ages, a.window);
        }
#pragma unroll
        for (int i = 0; i < kBlock / 8; i++) {
          const float2 lse = *reinterpret_cast<const float2*>(&s.numbers[ring.index][0][8 * i + f.column]);
#pragma unroll
          for (int h = 0; h < 2; h++) {
            float* x = score + 4 * i + 2 * h;
            x[0] = exp2_approx(fmaf(x[0], a.scale_log2, -lse.x));
            x[1] = exp2_approx(fmaf(x[1], a.scale_log2, -lse.y));
          }
        }
        round_to_operand(p, score);
        pin(dv);
        pin(p);
        wgmma_fence();
        issue_sums(dv, p, dout_columns + at);
        wgmma_wait<1>();
        pin(dp);
#pragma unroll
        for (int i = 0; i < kBlock / 8; i++) {
          const float2 delta = *reinterpret_cast<const float2*>(&s.numbers[ring.index][1][8 * i + f.column]);
#pragma unroll
          for (int h = 0; h < 2; h++) {
            const int e = 4 * i + 2 * h;
            score[e] *= dp[e] - delta.x;
            score[e + 1] *= dp[e + 1] - delta.y;
          }
        }
        round_to_operand(ds, score);
        pin(dk);
        pin(ds);
        wgmma_fence();
        issue_sums(dk, ds, q_columns + at);
        wgmma_wait<0>();
        pin(dv);
        pin(p);
        pin(dk);
        pin(ds);
        if (f.lane == 0)
          s.stage[ring.index].release();  // one arrival per warp: each has waited for its own part
        ring.advance();
      }
    }
    skip_blocks(t.ascending ? newer : older);

    if (a.turned) turn_back<D>(dk, a.turned, first_key + f.row, a.length - 1, f);

    // dK and dV take the place of this warpgroup's K and V, which nobody reads any more.
    const float one[2] = {1.0f, 1.0f}, factor[2] = {a.scale, a.scale};
    stage_rows<D>(k_block, dk, factor, f);
    stage_rows<D>(v_block, dv, one, f);
    fence_async_proxy();
    named_barrier_sync(kStoreBarrier + warpgroup, 128);
    if (f.thread == 0) {
      if (a.want_dk) store_tile<D>(&a.dk, k_block, first_key, t.kv_head, t.batch, a.add_dk);
      if (a.want_dv) store_tile<D>(&a.dv, v_block, first_key, t.kv_head, t.batch, a.add_dv);
      tma_store_commit();
    }
    store_pending = true;
  }
  if (f.thread == 0) tma_store_wait_read();  // shared memory must outlive the last store
}

template <class C> __global__ void __launch_bounds__(C::kThreads, 1)
    backward_keys(const __grid_constant__ Arguments a) {
  extern __shared__ unsigned char raw[];
  SharedMemory<C>& s = aligned_shared<SharedMemory<C>>(raw);

  const int warp =
      __shfl_sync(~0u, threadIdx.x / 32, 0);  // tells the compiler that it is the same in all lanes
  if (threadIdx.x == 0) {
    for (Handover& slot : s.slot) slot.init(1, C::kWarpgroups);
    for (Handover& stage : s.stage) stage.init(1, 4 * C::kWarpgroups);
    mbarrier_init_fence();
  }
  __syncthreads();

  if (warp < 4) {
    give_registers<C::kProducerRegisters>();
    if (threadIdx.x == 0) produce<C>(a, s);
  } else {
    take_registers<C::kConsumerRegisters>();
    consume<C>(a, s, warp / 4 - 1);
  }
}

template <class C> Status launch(Cuda cuda, const WindowBackward& p) noexcept {
  const AttentionShape& s = p.shape;
  Arguments a{};
  a.numbers = p.delta;
  a.blocks = int((s.length + kBlock - 1) / kBlock);
  a.length = int(s.length);
  a.heads = int(s.heads);
  a.kv_heads = int(s.kv_heads);
  a.group = int(s.heads / s.kv_heads);
  a.window = int(std::min(p.reach, s.length)) + 1;
  a.scale = p.scale;
  a.scale_log2 = p.scale * kLog2E;
  a.want_dk = p.dk.p != nullptr;
  a.want_dv = p.dv.p != nullptr;
  a.add_dk = p.dk.add;
  a.add_dv = p.dv.add;
  a.turned = p.turned;
  const WindowStrides at = window_strides(p.order, s);
  for (auto status :
       {encode(a.q, p.q.p, s, s.heads, at.queries, kBlock),
        encode(a.k, p.k.p, s, s.kv_heads, at.keys, kBlock),
        encode(a.v, p.v.p, s, s.kv_heads, at.keys, kBlock),
        encode(a.dout, p.dout.p, s, s.heads, at.outputs, kBlock),
        encode(a.dk, a.want_dk ? p.dk.p : p.k.p, s, s.kv_heads, at.keys, kBlock),
        encode(a.dv, a.want_dv ? p.dv.p : p.v.p, s, s.kv_heads, at.keys, kBlock),
        make_schedule(a.schedule, cuda, (s.length + C::kKeys - 1) / C::kKeys, s.batch * s.kv_heads, 1, 2)})
    if (!status.ok()) return status;
  return launch_tiles(cuda, backward_keys<C>, a.schedule, C::kThreads, shared_bytes<SharedMemory<C>>(), a);
}

}  // namespace

Status backward_keys_sm90(Cuda cuda, const WindowBackward& p) noexcept {
  return p.shape.dim == 64 ? launch<Tiling<64, 2, 6>>(cuda, p) : launch<Tiling<128, 2, 3>>(cuda, p);
}

}  // namespace k
