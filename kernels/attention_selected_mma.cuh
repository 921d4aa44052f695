// Private to the tensor-core body of attention to selected blocks: the lists of who visits a block, and how a
// warp holds gathered rows.
//
// A visit is row * 32 + slot: of the queries of a key/value head, and which of a query's blocks it is. A list
// has the block's own queries first, then those that picked it, both ascending, so the order of sums over a
// list depends on the picks alone.
#pragma once
#include "kernels/attention_tiles.cuh"

namespace k::selected {

using namespace tiles;

constexpr int kRun = int(SelectedPlan::kRun);

__device__ inline int visit_of(int row, int slot) { return row << 5 | slot; }
__device__ inline int row_of_visit(int visit) { return visit >> 5; }
__device__ inline int slot_of(int visit) { return visit & 31; }

struct Run {  // of the visits [begin, end); block: -1: there is none
  int block, begin, end;
  int whole;  // is it all of the block's list?
};

// The plan as kernels see it. `unit` counts all key/value heads, `local` those that are under way together.
struct Lists {
  const std::int32_t* numbers;
  std::int64_t of_unit;  // numbers of a head
  int length, block, blocks, pieces, rows, slots, runs;

  template <class P> explicit Lists(const P& p) : numbers(p.lists) {
    const SelectedPlan plan(p.shape, p.block, p.top);
    of_unit = plan.lists();
    length = int(p.shape.length), block = int(std::min(p.block, p.shape.length)), blocks = int(plan.blocks);
    pieces = int(plan.pieces), rows = int(plan.rows), slots = int(plan.slots), runs = int(plan.runs());
  }
  // Where a head's runs, first visits of the blocks (and the end) and visits begin.
  __device__ std::int64_t runs_at(std::int64_t unit) const { return unit * of_unit; }
  __device__ std::int64_t first_visits_at(std::int64_t unit) const { return runs_at(unit) + 4 * runs; }
  __device__ std::int64_t visits_at(std::int64_t unit) const { return first_visits_at(unit) + blocks + 1; }
  // The place of a block's first run.
  __device__ int first_run(int block, int first_visit) const { return first_visit / kRun + block; }
  __device__ std::int64_t part(int local, int visit, int piece) const {
    return (std::int64_t(local) * rows + row_of_visit(visit)) * (slots * pieces) + slot_of(visit) * pieces +
           piece;
  }
  __device__ bool is_own(int visit) const { return slot_of(visit) == slots - 1; }
  // The last of 16 keys, counted from `first_key`, that a visitor sees.
  __device__ int last_key(int visit, int first_key) const {
    return is_own(visit) ? row_of_visit(visit) % length - first_key : kRows - 1;
  }
};

// Of a run of 8.
__device__ inline float element_of(const uint4& run, int e) {
  const std::uint32_t pair = e / 2 == 0 ? run.x : e / 2 == 1 ? run.y : e / 2 == 2 ? run.z : run.w;
  return __uint_as_float(e % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
}

// Calls f(there, part) for the parts of the query in `row`, kTogether at a time in a fixed order: part[j]
// counts from the query's first and is of no meaning unless there[j].
constexpr int kTogether = 5;
template <class F>
__device__ inline void for_parts(const Lists& lists, const std::int32_t* selected, std::int64_t row, F&& f) {
  const int top = lists.slots - 1;
  const int own_pieces = lists.pieces == 1 ? 1 : int(row % lists.length) % lists.block / kRows + 1;
  const std::int32_t* picks = selected + row * top;
  for (int piece = 0; piece < lists.pieces; piece++)
    for (int first = 0; first < lists.slots; first += kTogether) {
      bool there[kTogether];
      int part[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; j++) {
        const int slot = first + j;
        there[j] = slot < top ? picks[slot] >= 0 : slot == top && piece < own_pieces;
        part[j] = slot * lists.pieces + piece;
      }
      f(there, part);
    }
}

// A run of a list and a piece of its block's keys: what a warp takes.
struct Work {
  std::int64_t unit;
  int local, index, piece;  // of the head, the run and the piece
  Run run;
  int first_key, keys;  // keys: at most 16
  bool there;

  __device__ Work(const Lists& lists, unsigned at, std::int64_t first_unit, unsigned units) {
    local = int(at % units);  // heads in turn, so that the longest lists, those of early blocks, come first
    unit = first_unit + local;
    piece = int(at / units % unsigned(lists.pieces));
    index = int(at / units / unsigned(lists.pieces));
    there = index < lists.runs;
    if (!there) return;
    const int4 numbers = *reinterpret_cast<const int4*>(lists.numbers + lists.runs_at(unit) + 4 * index);
    run = {numbers.x, numbers.y, numbers.z, numbers.w};
    first_key = run.block * lists.block + kRows * piece;
    keys = min(kRows, lists.length - first_key);
    there = run.block >= 0 && keys > 0;
  }
};

// 16 rows of a matrix as operands of products, straight from global memory. Lane l has of rows l / 4 and l /
// 4 + 8 the runs of 8 elements from 8 (l % 4), 32 + 8 (l % 4), .. on. A product's depth may come in any order
// that both operands have, and the columns of a result in the order of the right operand's: a lane gets the
// runs of a row that it would have read.
template <int dim> struct Rows {
  std::uint32_t x[2][dim / 8] = {};

  __device__ void load(int half, const bf* row) {
#pragma unroll
    for (int r = 0; r < dim / 32; r++) {
      const uint4 run = *reinterpret_cast<const uint4*>(row + 32 * r + lane_id() % 4 * 8);
      x[half][4 * r] = run.x, x[half][4 * r + 1] = run.y, x[half][4 * r + 2] = run.z;
      x[half][4 * r + 3] = run.w;
    }
  }
  // The first `count` of consecutive rows, then zeros.
  __device__ void load_first(const bf* rows, int count) {
#pragma unroll
    for (int half = 0; half < 2; half++)
      if (row_of(half) < count) load(half, rows + row_of(half) * dim);
  }
  __device__ mma::A left(int step) const {
    return {x[0][2 * step], x[1][2 * step], x[0][2 * step + 1], x[1][2 * step + 1]};
  }
  // As 8 columns each.
  __device__ mma::B right(int step, int half) const { return {x[half][2 * step], x[half][2 * step + 1]}; }
  // With the rows as depth, and 8 of the elements as columns.
  __device__ mma::B right_transposed(int n) const {
    return {mma::transpose(x[0][n]), mma::transpose(x[1][n])};
  }
};

// A run of 8 elements of row row_of(half) of four products with the columns above.
__device__ inline uint4 packed_run(const mma::D (&d)[4], int half) {
  return {
      mma::pack(d[0].x[2 * half], d[0].x[2 * half + 1]), mma::pack(d[1].x[2 * half], d[1].x[2 * half + 1]),
      mma::pack(d[2].x[2 * half], d[2].x[2 * half + 1]), mma::pack(d[3].x[2 * half], d[3].x[2 * half + 1])};
}

template <class... Parameters>
Status with_shared_memory(void (*kernel)(Parameters...), std::size_t bytes) noexcept {
  return status_of(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
}

}  // namespace k::selected
