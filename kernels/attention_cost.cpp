// What the attention ops must compute and move at least. A query-key pair costs one dot product and one
// scaled row each for q.k and p.v forward (4 dim), five such passes backward (10 dim). Where the work depends
// on the picks, all of them count as valid.
#include <algorithm>

#include "kernels/attention.h"

namespace k {
namespace {

double queries(const AttentionShape& s) { return double(s.batch) * double(s.heads) * double(s.length); }
double query_elements(const AttentionShape& s) { return queries(s) * double(s.dim); }
double key_elements(const AttentionShape& s) {
  return double(s.batch) * double(s.kv_heads) * double(s.length) * double(s.dim);
}

double window_pairs(const AttentionShape& s, std::int64_t reach) {
  double r = double(std::min(reach, s.length - 1)), n = double(s.length);
  return double(s.batch) * double(s.heads) * ((r + 1) * (r + 2) / 2 + (n - 1 - r) * (r + 1));
}

double compressed_pairs(const AttentionShape& s, std::int64_t blocks, std::int64_t block,
                        std::int64_t slots) {
  double visible = 0;  // block w is seen by the queries from its own last token on
  for (std::int64_t w = 0; w < blocks; w++) visible += double(s.length - ((w + 1) * block - 1));
  return queries(s) * double(slots) + double(s.batch) * double(s.heads) * visible;
}

double selected_pairs(const AttentionShape& s, std::int64_t block, std::int64_t top) {
  double keys = 0;
  for (std::int64_t i = 0; i < s.length; i++)
    keys += double(std::min(top, (i + 1) / block) * block + i % block + 1);
  return double(s.batch) * double(s.heads) * keys;
}

// Elements of ck, cv and the memory.
double compressed_elements(const AttentionShape& s, std::int64_t blocks, std::int64_t slots) {
  return 2 * double(s.kv_heads) * double(s.dim) * (double(s.batch) * double(blocks) + double(slots));
}

template <class P> Cost compress_cost(const P& p, double products, double arrays) {
  double blocks = double(p.batch) * double(p.kv_heads) * double(p.length / p.block);
  double weight = double(p.kv_heads) * double(p.dim) * double(p.dim) * double(p.block);
  double inputs = blocks * double(p.block) * double(p.dim);
  return {2 * products * inputs * double(p.dim),
          double(size_of(p.x.t)) * (arrays * (inputs + weight) + blocks * double(p.dim))};
}

Cost sum(const Cost& a, const Cost& b) { return {a.flops + b.flops, a.bytes + b.bytes}; }

}  // namespace

Cost cost(const WindowForward& p) {
  double size = double(size_of(p.q.t));
  return {4 * double(p.shape.dim) * window_pairs(p.shape, p.reach),
          size * 2 * (query_elements(p.shape) + key_elements(p.shape)) + 4 * queries(p.shape)};
}

Cost cost(const WindowBackward& p) {
  double size = double(size_of(p.q.t));
  return {10 * double(p.shape.dim) * window_pairs(p.shape, p.reach),
          size * 4 * (query_elements(p.shape) + key_elements(p.shape)) + 4 * queries(p.shape)};
}

Cost cost(const CompressForward& p) { return compress_cost(p, 1, 1); }

Cost cost(const CompressBackward& p) { return compress_cost(p, 2, 2); }

Cost cost(const CompressPairForward& p) { return sum(cost(p.keys), cost(p.values)); }
Cost cost(const CompressPairBackward& p) { return sum(cost(p.keys), cost(p.values)); }

Cost cost(const CompressedForward& p) {
  double size = double(size_of(p.q.t));
  return {4 * double(p.shape.dim) * compressed_pairs(p.shape, p.blocks, p.block, p.slots),
          size * (2 * query_elements(p.shape) + compressed_elements(p.shape, p.blocks, p.slots)) +
              4 * queries(p.shape) * double(1 + p.top)};
}

Cost cost(const CompressedBackward& p) {
  double size = double(size_of(p.q.t));
  return {10 * double(p.shape.dim) * compressed_pairs(p.shape, p.blocks, p.block, p.slots),
          size * (4 * query_elements(p.shape) + 2 * compressed_elements(p.shape, p.blocks, p.slots)) +
              4 * queries(p.shape) * double(p.d_importance ? 1 + 2 * p.top : 1)};
}

Cost cost(const SelectedForward& p) {
  double size = double(size_of(p.q.t));
  return {4 * double(p.shape.dim) * selected_pairs(p.shape, p.block, p.top),
          size * 2 * (query_elements(p.shape) + key_elements(p.shape)) +
              4 * queries(p.shape) * double(1 + p.top)};
}

Cost cost(const SelectedBackward& p) {
  double size = double(size_of(p.q.t));
  return {10 * double(p.shape.dim) * selected_pairs(p.shape, p.block, p.top),
          size * 4 * (query_elements(p.shape) + key_elements(p.shape)) +
              4 * queries(p.shape) * double(1 + p.top * (p.d_importance ? 2 : 1))};
}

Cost cost(const GatesForward& p) {
  double rows = double(p.batch) * double(p.length) * double(p.heads);
  return {5 * rows * double(p.dim), double(size_of(p.y.t)) * rows * (4 * double(p.dim) + 3)};
}

Cost cost(const GatesBackward& p) {
  double rows = double(p.batch) * double(p.length) * double(p.heads);
  return {9 * rows * double(p.dim), double(size_of(p.dy.t)) * rows * (7 * double(p.dim) + 6)};
}

}  // namespace k
