#include "kernels/embedding.h"

#include "engine/ops.h"

namespace engine {

Tensor ops::embedding(Tape& t, const Tensor& ids, Param& table) {
  const Shape shape = table.value.shape();
  require(shape.rank == 2, Exit::failure, "embedding: {} is {}, expected [vocab, width]", table.name,
          to_string(shape));
  require(ids.dtype() == DType::i32, Exit::failure, "embedding: ids of {} must be 32-bit integers",
          table.name);
  const std::int64_t rows = ids.numel(), vocab = shape[0], dim = shape[1];
  Tensor y = t.make({rows, dim}, table.value.dtype());
  t.launch(
      "embedding",
      k::EmbeddingForward{
          .y = y.out(), .ids = ids.i32(), .table = table.value, .rows = rows, .vocab = vocab, .dim = dim});
  t.record("embedding", {&y}, [ids, &table, rows, vocab, dim](Back& b) {
    Tensor tally = b.scratch({k::embedding_tally(rows, vocab)}, DType::i32);
    b.launch("embedding backward", k::EmbeddingBackward{.dtable = b.into(table),
                                                        .dy = b.dy(),
                                                        .ids = ids.i32(),
                                                        .tally = tally.i32(),
                                                        .rows = rows,
                                                        .vocab = vocab,
                                                        .dim = dim});
  });
  return y;
}

}  // namespace engine
