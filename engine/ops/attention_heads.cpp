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
  require(length > 0 && dim > 0 && dim % 2 == 0 && base > 0, Exit::failure,
          "rope_table: length {}, head size {}, base {}; expected positive ones and an even size", length,
          dim, base);
  Tensor table = tape.make({length, dim / 2, 2});
  tape.launch(
      "rope table",
      k::RopeTable{.table = table.f32(), .length = length, .dim = dim, .first_position = 0, .base = base});
  return table;
}

}  // namespace engine::ops
