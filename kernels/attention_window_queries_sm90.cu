// dQ of window attention, one tile of queries at a time: the forward pass's division of work, with
//
//   consumer:   issue S_j = Q K_j^T, dP_j = dO V_j^T and dQ += dS_(j+1) K_(j+1)  |  dS_j = P_j (dP_j - delta)
//               with P_j = exp(S_j - lse) while the third product runs  |  round dS_j  |  next block
#include "kernels/attention_sm90.cuh"
#include "kernels/attention_window_sm90.cuh"
#include "kernels/tensor_map.cuh"

namespace k {
namespace {

using namespace sm90;

template <int Dim, int Warpgroups, int KStages, int VStages, bool InRegisters> struct Tiling {
  static constexpr int kDim = Dim;
  static constexpr int kWarpgroups = Warpgroups;  // consumers
  static constexpr int kQueries = kBlock * Warpgroups;
  static constexpr int kKStages = KStages;  // blocks of 64 keys in flight
  static constexpr int kVStages = VStages;
  static constexpr bool kInRegisters =
      InRegisters;  // Q and dO: spares shared-memory reads, costs Dim / 2 registers
  static constexpr int kThreads = 128 * (Warpgroups + 1);
  static constexpr int kProducerRegisters = Warpgroups == 2 ? 24 : 32;    // all warpgroups together must fit
  static constexpr int kConsumerRegisters = Warpgroups == 2 ? 240 : 160;  // 65536
  static constexpr int kBytes = kBlockBytes<Dim>;
};

struct QueryTile {
  int batch;  // -1: no more tiles
  int head, kv_head, first_query;
  int block_begin, block_end;  // of keys
};

template <class C> struct alignas(1024) SharedMemory {
  struct Queries {
    unsigned char q[C::kBytes];  // dQ leaves through the same space
    unsigned char dout[C::kBytes];
  };
  Queries queries[2][C::kWarpgroups];  // two tiles, so that the next one is there in time
  unsigned char k[C::kKStages][C::kBytes];
  unsigned char v[C::kVStages][C::kBytes];
  Handover slot[2], k_stage[C::kKStages], v_stage[C::kVStages];
  QueryTile tile[2];  // what the slot holds
};

struct Arguments {
  CUtensorMap q, k, v, dout, dq;
  const float* numbers;  // of the queries, in this many blocks a head
  int length, blocks, heads, group;
  int window;  // keys that a query sees, the own one included
  float scale, scale_log2;
  bool add;
  const float* turned;  // null, or the table by which dQ is turned back
  Schedule schedule;
};

template <class C> __device__ __forceinline__ QueryTile tile_at(const Arguments& a, int number) {
  const auto place = a.schedule.at(number);
  QueryTile t;
  t.batch = place.unit / a.heads;
  t.head = place.unit - t.batch * a.heads;
  t.kv_head = t.head / a.group;
  t.first_query = (a.schedule.steps - 1 - place.step) * C::kQueries;
  t.block_begin = max(0, t.first_query - a.window + 1) / kBlock;
  t.block_end = (min(t.first_query + C::kQueries, a.length) - 1) / kBlock + 1;
  return t;
}

template <class C> __device__ __forceinline__ void produce(const Arguments& a, SharedMemory<C>& s) {
  constexpr int D = C::kDim;
  Ring<2> slot;
  Ring<C::kKStages> k;
  Ring<C::kVStages> v;
  for (int row = 0; !a.schedule.ends_before(row); row++) {
    const int number = a.schedule.own(row);
    if (number >= a.schedule.tiles) continue;
    const QueryTile t = tile_at<C>(a, number);
    const std::uint32_t full = s.slot[slot.index].begin(slot.parity, C::kWarpgroups * 2 * C::kBytes,
                                                        [&] { s.tile[slot.index] = t; });
    for (int w = 0; w < C::kWarpgroups; w++) {
      auto& to = s.queries[slot.index][w];
      const int query = t.first_query + w * kBlock;
      load_tile<D>(smem_address(to.q), &a.q, full, kBlock, query, t.head, t.batch);
      load_tile<D>(smem_address(to.dout), &a.dout, full, kBlock, query, t.head, t.batch);
    }
    for (int block = t.block_end - 1; block >= t.block_begin; block--) {
      load_tile<D>(smem_address(s.k[k.index]), &a.k, s.k_stage[k.index].begin(k.parity, C::kBytes), kBlock,
                   block * kBlock, t.kv_head, t.batch);
      k.advance();
      load_tile<D>(smem_address(s.v[v.index]), &a.v, s.v_stage[v.index].begin(v.parity, C::kBytes), kBlock,
                   block * kBlock, t.kv_head, t.batch);
      v.advance();
    }
    slot.advance();
  }
  s.slot[slot.index].begin(slot.parity, 0, [&] { s.tile[slot.index].batch = -1; });
}

template <class C>
__device__ __forceinline__ void consume(const Arguments& a, SharedMemory<C>& s, int warpgroup) {
  constexpr int D = C::kDim;
  constexpr int kStoreBarrier = 1 + C::kWarpgroups;  // + warpgroup; the token uses the ids below
  const Fragment f;
  const int row = kBlock * warpgroup + f.row;  // of the tile

  const Token<C::kWarpgroups> token(warpgroup);
  Ring<2> slot;
  Ring<C::kKStages> k, k_done;  // K of a block is read by two products, the second one step later
  Ring<C::kVStages> v;
  bool store_pending = false;

  const std::uint64_t k_rows = descriptor_k_major(smem_address(s.k[0]));
  const std::uint64_t k_columns = descriptor_mn_major(smem_address(s.k[0]), kBlockPanel);
  const std::uint64_t v_rows = descriptor_k_major(smem_address(s.v[0]));
  auto release_k = [&] {  // one arrival per warp: each has waited for its own part
    if (f.lane == 0) s.k_stage[k_done.index].release();
    k_done.advance();
  };
  auto release_v = [&] {
    if (f.lane == 0) s.v_stage[v.index].release();
    v.advance();
  };

  float dq[D / 2], score[kBlock / 2], dp[kBlock / 2];
  std::uint32_t ds[kBlock / 4];

  for (;; slot.advance()) {
    s.slot[slot.index].wait(slot.parity);
    const QueryTile& t = s.tile[slot.index];
    if (t.batch < 0) break;

    const std::uint32_t q_block = smem_address(s.queries[slot.index][warpgroup].q);
    const std::uint32_t dout_block = smem_address(s.queries[slot.index][warpgroup].dout);
    std::uint32_t q[D / 4], dout[D / 4];
    if constexpr (C::kInRegisters) {
      load_operand<D>(q, q_block, f);
      load_operand<D>(dout, dout_block, f);
    }
    auto issue_scores = [&](int at) {
      if constexpr (C::kInRegisters) issue_dots<D, kBlockPanel>(score, q, k_rows + at);
      else issue_dots<D, kBlockPanel>(score, descriptor_k_major(q_block), k_rows + at);
    };
    auto issue_dp = [&] {
      s.v_stage[v.index].wait(v.parity);
      const std::uint64_t v_block = v_rows + v.index * (C::kBytes >> 4);
      wgmma_fence();
      if constexpr (C::kInRegisters) issue_dots<D, kBlockPanel>(dp, dout, v_block);
      else issue_dots<D, kBlockPanel>(dp, descriptor_k_major(dout_block), v_block);
    };
    // The blocks this warpgroup's queries need, [own_begin, own_end), and those among them where every query
    // sees every key.
    auto newest_key = [&](int tile_row) { return min(t.first_query + tile_row, a.length - 1); };
    const int first_newest = newest_key(kBlock * warpgroup),
              last_newest = newest_key(kBlock * warpgroup + 63);
    const int own_begin = max(t.block_begin, (first_newest - a.window + 1) / kBlock);
    const int own_end = min(t.block_end, last_newest / kBlock + 1);
    const int full_begin = last_newest < a.window ? 0 : (last_newest - a.window) / kBlock + 1;
    const int full_end = (first_newest + 1) / kBlock;
    float lse[2], delta[2];
    auto to_ds = [&](int block) {
      if (block >= full_end || block < full_begin) {
        const int element = block * kBlock + f.column;
        const int age[2] = {newest_key(row) - element, newest_key(row + 8) - element};
        mask_scores<1>(score, age, a.window);
      }
#pragma unroll
      for (int i = 0; i < kBlock / 2; i++) {
        const int h = (i >> 1) & 1;
        score[i] = exp2_approx(fmaf(score[i], a.scale_log2, -lse[h])) * (dp[i] - delta[h]);
      }
    };

    // Blocks that only other warpgroups of this tile need: take part in the hand-over, nothing else.
    auto skip_block = [&] {
      s.k_stage[k.index].wait(k.parity);
      k.advance();
      token.take();
      token.pass();
      release_k();
      s.v_stage[v.index].wait(v.parity);
      release_v();
    };
    // By now dQ of the tile before has left.
    auto free_slot_before = [&] {
      if (store_pending && f.thread == 0) {
        tma_store_wait_read();
        s.slot[slot.index ^ 1].release();
      }
    };
    int block = t.block_end - 1;
    if (t.first_query + kBlock * warpgroup >= a.length) {  // no query here
      for (; block >= t.block_begin; block--) skip_block();
      free_slot_before();
      store_pending = true;  // nothing, but the slot is to be freed
      continue;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int query = t.first_query + row + 8 * h;
      const float* at =
          query_numbers(a.numbers, std::int64_t(t.batch) * a.heads + t.head, query / kBlock, a.blocks) +
          query % kBlock;
      lse[h] = at[0];
      delta[h] = at[kBlock];
    }
    for (; block >= own_end; block--) skip_block();

#pragma unroll
    for (int i = 0; i < D / 2; i++) dq[i] = 0.0f;

    // First block: nothing of our own to overlap with.
    int offset = k.index * (C::kBytes >> 4);
    {
      s.k_stage[k.index].wait(k.parity);
      k.advance();
      token.take();
      pin(score);
      pin(dp);
      wgmma_fence();
      issue_scores(offset);
      issue_dp();
      token.pass();
      free_slot_before();
      wgmma_wait<0>();
      pin(score);
      pin(dp);
      release_v();
      to_ds(block);
      round_to_operand(ds, score);
    }

    while (--block >= own_begin) {
      const std::uint64_t k_before = k_columns + offset;
      offset = k.index * (C::kBytes >> 4);
      s.k_stage[k.index].wait(k.parity);
      k.advance();
      token.take();
      pin(score);
      pin(dp);
      pin(dq);
      pin(ds);
      wgmma_fence();
      issue_scores(offset);
      issue_dp();
      issue_sums(dq, ds, k_before);
      token.pass();
      wgmma_wait<1>();
      pin(score);
      pin(dp);
      release_v();
      to_ds(block);
      wgmma_wait<0>();
      pin(dq);
      pin(ds);
      release_k();
      round_to_operand(ds, score);
    }

    pin(dq);
    pin(ds);
    wgmma_fence();
    issue_sums(dq, ds, k_columns + offset);
    wgmma_wait<0>();
    pin(dq);
    release_k();
    for (; block >= t.block_begin; block--) skip_block();

    if (a.turned) turn_back<D>(dq, a.turned, t.first_query + row, a.length - 1, f);

    // dQ takes the place of this warpgroup's Q, which nobody reads any more.
    const float factor[2] = {a.scale, a.scale};
    stage_rows<D>(q_block, dq, factor, f);
    fence_async_proxy();
    named_barrier_sync(kStoreBarrier + warpgroup, 128);
    if (f.thread == 0) {
      store_tile<D>(&a.dq, q_block, t.first_query + kBlock * warpgroup, t.head, t.batch, a.add);
      tma_store_commit();
    }
    store_pending = true;
  }
  if (f.thread == 0) tma_store_wait_read();  // shared memory must outlive the last store
  token.retire(warpgroup);
}

template <class C> __global__ void __launch_bounds__(C::kThreads, 1)
    backward_queries(const __grid_constant__ Arguments a) {
  extern __shared__ unsigned char raw[];
  SharedMemory<C>& s = aligned_shared<SharedMemory<C>>(raw);

  const int warp =
      __shfl_sync(~0u, threadIdx.x / 32, 0);  // tells the compiler that it is the same in all lanes
  if (threadIdx.x == 0) {
    for (Handover& slot : s.slot) slot.init(1, C::kWarpgroups);
    for (Handover& stage : s.k_stage) stage.init(1, 4 * C::kWarpgroups);
    for (Handover& stage : s.v_stage) stage.init(1, 4 * C::kWarpgroups);
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
  a.group = int(s.heads / s.kv_heads);
  a.window = int(std::min(p.reach, s.length)) + 1;
  a.scale = p.scale;
  a.scale_log2 = p.scale * kLog2E;
  a.add = p.dq.add;
  a.turned = p.turned;
  const WindowStrides at = window_strides(p.order, s);
  for (auto status : {encode(a.q, p.q.p, s, s.heads, at.queries, kBlock),
                      encode(a.k, p.k.p, s, s.kv_heads, at.keys, kBlock),
                      encode(a.v, p.v.p, s, s.kv_heads, at.keys, kBlock),
                      encode(a.dout, p.dout.p, s, s.heads, at.outputs, kBlock),
                      encode(a.dq, p.dq.p, s, s.heads, at.queries, kBlock),
                      make_schedule(a.schedule, cuda, (s.length + C::kQueries - 1) / C::kQueries,
                                    s.batch * s.heads, a.group, 6)})
    if (!status.ok()) return status;
  return launch_tiles(cuda, backward_queries<C>, a.schedule, C::kThreads, shared_bytes<SharedMemory<C>>(), a);
}

}  // namespace

Status backward_queries_sm90(Cuda cuda, const WindowBackward& p) noexcept {
  return p.shape.dim == 64 ? launch<Tiling<64, 3, 6, 6, false>>(cuda, p)
                           : launch<Tiling<128, 2, 4, 2, true>>(cuda, p);
}

}  // namespace k
