#include "engine/ops/attention_heads.h"

namespace engine::ops {

Sizes attention_sizes(const char* op, const Tensor& qkv, const Tensor& rope, const Heads& heads,
                      std::int64_t batch) {
  require(heads.query > 0 && heads.kv > 0 && heads.query % heads.kv == 0, Exit::failure,
          "{}: {} query heads over {} key/value heads; give a multiple of the key/value heads", op,
          heads.query, heads.kv);
  require(heads.dim > 0 && heads.dim % 2 == 0, Exit::failure, "{}: head size {}; rotation needs an even one",
          op, heads.dim);
  require(qkv.shape().rank == 2 && qkv.shape()[1] == heads.packed(), Exit::failure,
          "{}: qkv is {}, expected [rows, {}] for {} + 2 x {} heads of {}", op, to_string(qkv.shape()),
          heads.packed(), heads.query, heads.kv, heads.dim);
  std::int64_t rows = qkv.shape()[0];
  require(batch > 0 && rows > 0 && rows % batch == 0, Exit::failure,
          "{}: qkv has {} rows, not a multiple of batch {}", op, rows, batch);
  Sizes sizes{batch, rows / batch, heads, qkv.dtype()};
  Shape table{sizes.length, heads.dim / 2, 2};
  require(rope.shape() == table, Exit::failure, "{}: the rotation table is {}, expected {}", op,
          to_string(rope.shape()), to_string(table));
  return sizes;
}

Tensor rope_table(Tape& tape, std::int64_t length, std::int64_t dim, float base) {
  require(length > 0 && dim > 0 && dim % 2 == 0, Exit::failure,
          "rope_table: length {}, head size {}; expected positive ones and an even size", length, dim);
  Tensor table = tape.make({length, dim / 2, 2});
  fill_rope_table(tape, table, base);
  return table;
}

void fill_rope_table(Tape& tape, const Tensor& table, float base) {
  const Shape shape = table.shape();
  require(shape.rank == 3 && shape[2] == 2 && base > 0, Exit::failure,
          "rope_table: {}, base {}; expected [length, head size / 2, 2] and a positive base",
          to_string(shape), base);
  tape.launch(
      "rope table",
      k::RopeTable{
          .table = table.f32(), .length = shape[0], .dim = 2 * shape[1], .first_position = 0, .base = base});
}

void store(Tape& tape, const Tensor& cache, k::In from, std::int64_t from_head, std::int64_t from_token,
           std::int64_t length) {
  const Shape shape = cache.shape();
  if (length == 0 || shape.numel() == 0) return;
  tape.launch("store in cache", k::CacheStore{.to = cache.out(),
                                              .from = from,
                                              .from_head = from_head,
                                              .from_token = from_token,
                                              .samples = shape[0],
                                              .kv_heads = shape[1],
                                              .length = length,
                                              .places = shape[2],
                                              .dim = shape[3]});
}

void store(Tape& tape, const Tensor& cache, const Tensor& head_major) {
  const std::int64_t length = head_major.shape()[2], dim = head_major.shape()[3];
  store(tape, cache, head_major, length * dim, dim, length);
}

void check_fill(const char* op, const Sizes& sizes, const KvCache& cache) {
  const Shape shape = cache.k.shape();
  require(sizes.batch == 1 && shape.rank == 4 && shape[1] == sizes.heads.kv && shape[2] >= sizes.length &&
              shape[3] == sizes.heads.dim && cache.k.dtype() == sizes.dtype,
          Exit::failure, "{}: a cache of {} for {} sequences of {} tokens with {} heads of {}", op,
          to_string(shape), sizes.batch, sizes.length, sizes.heads.kv, sizes.heads.dim);
}

}  // namespace engine::ops
