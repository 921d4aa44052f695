// One block of threads per multiprocessor: a producer thread that keeps the copy engine busy, and 2 or 3
// consumer warpgroups that each own 64 queries of the tile.
//
//   producer:   Q of the next tile; then K and V block by block, from the newest keys to the oldest
//   consumer:   issue S_j = Q K_j^T and O += P_(j+1) V_(j+1)  |  softmax of S_j while the second product and
//               those of the other warpgroups run  |  P_j = rounded S_j  |  next block
//
// The tensor cores stay busy in two ways. Within a warpgroup the products of two neighbouring blocks are
// issued together, and the softmax needs only the first of them. Between warpgroups a token goes round.
#include "kernels/attention_sm90.cuh"
#include "kernels/attention_window_sm90.cuh"
#include "kernels/tensor_map.cuh"

namespace k {
namespace {

using namespace sm90;

template <int Dim, int Warpgroups, int Keys, int Stages, bool QInRegisters> struct Tiling {
  static constexpr int kDim = Dim;
  static constexpr int kWarpgroups = Warpgroups;  // consumers
  static constexpr int kQueries = kBlock * Warpgroups;
  static constexpr int kKeys = Keys;                   // of a block
  static constexpr int kStages = Stages;               // blocks of K, and of V, in flight
  static constexpr bool kQInRegisters = QInRegisters;  // spares shared-memory reads, costs Dim / 4 registers
  static constexpr int kThreads = 128 * (Warpgroups + 1);
  static constexpr int kProducerRegisters = Warpgroups == 2 ? 24 : 32;    // all warpgroups together must fit
  static constexpr int kConsumerRegisters = Warpgroups == 2 ? 240 : 160;  // 65536
  static constexpr int kPanelBytes = Keys * kPanelRowBytes;
  static constexpr int kBytes = kPanels<Dim> * kPanelBytes;  // of a block of K or V
};

struct QueryTile {
  int batch;  // -1: no more tiles
  int head, kv_head, first_query;
  int block_begin, block_end;  // of keys
};

template <class C> struct alignas(1024) SharedMemory {
  // Two tiles of Q, so that the next one is there when a warpgroup is done with its own. O leaves through the
  // same space.
  unsigned char q[2][C::kWarpgroups][kBlockBytes<C::kDim>];
  unsigned char k[C::kStages][C::kBytes];
  unsigned char v[C::kStages][C::kBytes];
  Handover q_slot[2], k_stage[C::kStages], v_stage[C::kStages];
  QueryTile tile[2];  // what the Q slot holds
};

struct Arguments {
  CUtensorMap q, k, v, out;
  float* lse;
  int length, heads, group;  // group: query heads of a key/value head
  int window;                // keys that a query sees, the own one included
  float scale_log2;          // scale * log2(e): the softmax works with powers of two
  Schedule schedule;
};

template <class C> __device__ __forceinline__ QueryTile tile_at(const Arguments& a, int number) {
  const auto place = a.schedule.at(number);
  QueryTile t;
  t.batch = place.unit / a.heads;
  t.head = place.unit - t.batch * a.heads;
  t.kv_head = t.head / a.group;
  t.first_query = (a.schedule.steps - 1 - place.step) * C::kQueries;
  t.block_begin = max(0, t.first_query - a.window + 1) / C::kKeys;
  t.block_end = (min(t.first_query + C::kQueries, a.length) - 1) / C::kKeys + 1;
  return t;
}

template <class C> __device__ __forceinline__ void produce(const Arguments& a, SharedMemory<C>& s) {
  Ring<2> slot;
  Ring<C::kStages> k, v;
  for (int row = 0; !a.schedule.ends_before(row); row++) {
    const int number = a.schedule.own(row);
    if (number >= a.schedule.tiles) continue;
    const QueryTile t = tile_at<C>(a, number);
    const std::uint32_t q_full = s.q_slot[slot.index].begin(
        slot.parity, C::kWarpgroups * kBlockBytes<C::kDim>, [&] { s.tile[slot.index] = t; });
    for (int w = 0; w < C::kWarpgroups; w++)
      load_tile<C::kDim>(smem_address(s.q[slot.index][w]), &a.q, q_full, kBlock, t.first_query + w * kBlock,
                         t.head, t.batch);
    auto load = [&](const CUtensorMap* map, unsigned char* to, Handover* stage, Ring<C::kStages>& ring,
                    int block) {
      load_tile<C::kDim>(smem_address(to) + ring.index * C::kBytes, map,
                         stage[ring.index].begin(ring.parity, C::kBytes), C::kKeys, block * C::kKeys,
                         t.kv_head, t.batch);
      ring.advance();
    };
    load(&a.k, s.k[0], s.k_stage, k, t.block_end - 1);
    for (int block = t.block_end - 1; block >= t.block_begin; block--) {
      if (block > t.block_begin)
        load(&a.k, s.k[0], s.k_stage, k, block - 1);  // consumers take K one ahead of V
      load(&a.v, s.v[0], s.v_stage, v, block);
    }
    slot.advance();
  }
  s.q_slot[slot.index].begin(slot.parity, 0, [&] { s.tile[slot.index].batch = -1; });
}

template <class C>
__device__ __forceinline__ void consume(const Arguments& a, SharedMemory<C>& s, int warpgroup) {
  constexpr int D = C::kDim;
  constexpr int kStoreBarrier = 1 + C::kWarpgroups;  // + warpgroup; the token uses the ids below
  const Fragment f;
  const int row = kBlock * warpgroup + f.row;  // of the tile

  const Token<C::kWarpgroups> token(warpgroup);
  Ring<2> slot;
  Ring<C::kStages> k, v;
  bool store_pending = false;

  const std::uint64_t q_descriptor = descriptor_k_major(smem_address(s.q[0][warpgroup]));
  const std::uint64_t k_descriptor = descriptor_k_major(smem_address(s.k[0]));
  const std::uint64_t v_descriptor = descriptor_mn_major(smem_address(s.v[0]), C::kPanelBytes);
  auto wait_k = [&] {
    s.k_stage[k.index].wait(k.parity);
    return k_descriptor + k.index * (C::kBytes >> 4);
  };
  auto wait_v = [&] {
    s.v_stage[v.index].wait(v.parity);
    return v_descriptor + v.index * (C::kBytes >> 4);
  };
  auto release_k = [&] {  // one arrival per warp: each has waited for its own part
    if (f.lane == 0) s.k_stage[k.index].release();
    k.advance();
  };
  auto release_v = [&] {
    if (f.lane == 0) s.v_stage[v.index].release();
    v.advance();
  };

  float o[D / 2], score[C::kKeys / 2];
  std::uint32_t p[C::kKeys / 4];

  for (;; slot.advance()) {
    s.q_slot[slot.index].wait(slot.parity);
    const QueryTile& t = s.tile[slot.index];  // read where needed: at 160 registers none can be spared for it
    if (t.batch < 0) break;

    const std::uint32_t q_block = smem_address(s.q[slot.index][warpgroup]);
    const std::uint64_t q_shared = q_descriptor + slot.index * (C::kWarpgroups * kBlockBytes<D> >> 4);
    std::uint32_t q_registers[D / 4];
    if constexpr (C::kQInRegisters) load_operand<D>(q_registers, q_block, f);
    auto issue_scores = [&](std::uint64_t k_block) {
      if constexpr (C::kQInRegisters) issue_dots<D, C::kPanelBytes>(score, q_registers, k_block);
      else issue_dots<D, C::kPanelBytes>(score, q_shared, k_block);
    };

    // The blocks this warpgroup's queries need, [own_begin, own_end), and those among them where every query
    // sees every key.
    auto newest_key = [&](int tile_row) { return min(t.first_query + tile_row, a.length - 1); };
    const int first_newest = newest_key(kBlock * warpgroup),
              last_newest = newest_key(kBlock * warpgroup + 63);
    const int own_begin = max(t.block_begin, (first_newest - a.window + 1) / C::kKeys);
    const int own_end = min(t.block_end, last_newest / C::kKeys + 1);
    const int full_begin = last_newest < a.window ? 0 : (last_newest - a.window) / C::kKeys + 1;
    const int full_end = (first_newest + 1) / C::kKeys;
    auto mask_if_needed = [&](int block) {
      if (block >= full_end || block < full_begin) {
        const int element = block * C::kKeys + f.column;
        const int age[2] = {newest_key(row) - element, newest_key(row + 8) - element};
        mask_scores<1>(score, age, a.window);
      }
    };

    // Blocks that only other warpgroups of this tile need: take part in the hand-over, nothing else.
    auto skip_block = [&] {
      wait_k();
      token.take();
      token.pass();
      release_k();
      wait_v();
      release_v();
    };
    // By now O of the tile before has left.
    auto free_slot_before = [&] {
      if (store_pending && f.thread == 0) {
        tma_store_wait_read();
        s.q_slot[slot.index ^ 1].release();
      }
    };
    int block = t.block_end - 1;
    if (t.first_query + kBlock * warpgroup >= a.length) {  // no query here
      for (; block >= t.block_begin; block--) skip_block();
      free_slot_before();
      store_pending = true;  // nothing, but the slot is to be freed
      continue;
    }
    for (; block >= own_end; block--) skip_block();

    RowState state;
    float rescale[2];
#pragma unroll
    for (int i = 0; i < D / 2; i++) o[i] = 0.0f;

    // First block: nothing of our own to overlap the softmax with.
    {
      const std::uint64_t k_block = wait_k();
      token.take();
      pin(score);
      wgmma_fence();
      issue_scores(k_block);
      token.pass();
      free_slot_before();
      wgmma_wait<0>();
      pin(score);
      release_k();
      mask_if_needed(block);
      online_softmax(score, state, rescale, a.scale_log2);
      round_to_operand(p, score);
    }

    while (--block >= own_begin) {
      const std::uint64_t k_block = wait_k();
      token.take();
      pin(score);
      pin(o);
      pin(p);
      wgmma_fence();
      issue_scores(k_block);  // of this block
      const std::uint64_t v_block = wait_v();
      wgmma_fence();
      issue_sums(o, p, v_block);  // of the block before
      token.pass();
      wgmma_wait<1>();
      pin(score);
      release_k();
      mask_if_needed(block);
      online_softmax(score, state, rescale, a.scale_log2);
      wgmma_wait<0>();
      pin(o);
      pin(p);
      release_v();
      rescale_rows(o, rescale);
      round_to_operand(p, score);
    }

    {
      const std::uint64_t v_block = wait_v();
      pin(o);
      pin(p);
      wgmma_fence();
      issue_sums(o, p, v_block);
    }
    float inverse[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float sum = quad_sum(state.sum[h]);
      inverse[h] = sum > 0.0f ? 1.0f / sum : 0.0f;
      const int query = t.first_query + row + 8 * h;
      if (f.lane % 4 == 0 && query < a.length)
        a.lse[(std::int64_t(t.batch) * a.heads + t.head) * a.length + query] =
            (state.reference[h] + log2f(sum)) * kLn2;
    }
    wgmma_wait<0>();
    pin(o);
    release_v();
    for (; block >= t.block_begin; block--) skip_block();

    // O takes the place of this warpgroup's Q, which nobody reads any more.
    stage_rows<D>(q_block, o, inverse, f);
    fence_async_proxy();
    named_barrier_sync(kStoreBarrier + warpgroup, 128);
    if (f.thread == 0) {
      store_tile<D>(&a.out, q_block, t.first_query + kBlock * warpgroup, t.head, t.batch, false);
      tma_store_commit();
    }
    store_pending = true;
  }
  if (f.thread == 0) tma_store_wait_read();  // shared memory must outlive the last store
  token.retire(warpgroup);
}

template <class C> __global__ void __launch_bounds__(C::kThreads, 1)
    forward(const __grid_constant__ Arguments a) {
  extern __shared__ unsigned char raw[];
  SharedMemory<C>& s = aligned_shared<SharedMemory<C>>(raw);

  const int warp =
      __shfl_sync(~0u, threadIdx.x / 32, 0);  // tells the compiler that it is the same in all lanes
  if (threadIdx.x == 0) {
    for (Handover& slot : s.q_slot) slot.init(1, C::kWarpgroups);
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

template <class C> Status launch(Cuda cuda, const WindowForward& p) noexcept {
  const AttentionShape& s = p.shape;
  Arguments a{};
  a.lse = p.lse;
  a.length = int(s.length);
  a.heads = int(s.heads);
  a.group = int(s.heads / s.kv_heads);
  a.window = int(std::min(p.reach, s.length)) + 1;
  a.scale_log2 = p.scale * kLog2E;
  const WindowStrides at = window_strides(p.order, s);
  for (auto status : {encode(a.q, p.q.p, s, s.heads, at.queries, kBlock),
                      encode(a.out, p.out.p, s, s.heads, at.outputs, kBlock),
                      encode(a.k, p.k.p, s, s.kv_heads, at.keys, C::kKeys),
                      encode(a.v, p.v.p, s, s.kv_heads, at.keys, C::kKeys),
                      make_schedule(a.schedule, cuda, (s.length + C::kQueries - 1) / C::kQueries,
                                    s.batch * s.heads, a.group, 6)})
    if (!status.ok()) return status;
  return launch_tiles(cuda, forward<C>, a.schedule, C::kThreads, shared_bytes<SharedMemory<C>>(), a);
}

}  // namespace

Status forward_sm90(Cuda cuda, const WindowForward& p) noexcept {
  return p.shape.dim == 64 ? launch<Tiling<64, 3, 128, 4, false>>(cuda, p)
                           : launch<Tiling<128, 2, 128, 2, true>>(cuda, p);
}

}  // namespace k
