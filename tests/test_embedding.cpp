#include "tests/op_case.h"

using namespace engine;
using tests::Numbers;

TEST_CASE("embedding") {
  for (auto [rows, vocab, dim] :
       {std::array<std::int64_t, 3>{1, 1, 1}, {7, 3, 33}, {257, 65, 17}, {600, 33, 257}}) {
    std::vector<std::int32_t> ids;
    for (std::int64_t r = 0; r < rows; r++)
      ids.push_back(std::int32_t(r * r * 7 % vocab));  // some often, some never
    ids.back() = std::int32_t(vocab - 1);
    tests::check({
        .name = fmt::format("embedding of {} ids, table [{}, {}]", rows, vocab, dim),
        .params = {{.shape = {vocab, dim}}},
        .ids = {ids},
        .op = [](Tape& t, const auto& given) { return ops::embedding(t, given.ids[0], *given.params[0]); },
        .reference =
            [ids, dim = dim](const std::vector<Numbers>& v) {
              Numbers y;
              for (std::int32_t id : ids)
                y.insert(y.end(), v[0].begin() + id * dim, v[0].begin() + (id + 1) * dim);
              return y;
            },
    });
  }
}

TEST_CASE("embedding checks its table and ids") {
  Stream stream{Device{}};
  Arena arena{Device{}};
  Context context{stream, arena};
  Tape tape(context);
  Param table;
  table.name = "embed";
  table.value = tape.make({8});
  CHECK_THROWS_WITH_AS(ops::embedding(tape, tape.make({2}, DType::i32), table),
                       "embedding: embed is [8], expected [vocab, width]", Error);
  table.value = tape.make({8, 4});
  CHECK_THROWS_WITH_AS(ops::embedding(tape, tape.make({2}), table),
                       "embedding: ids of embed must be 32-bit integers", Error);
}
