#include "tests/op_case.h"

using namespace engine;

TEST_CASE("rmsnorm") {
  for (auto [rows, dim] :
       {std::pair<std::int64_t, std::int64_t>{1, 1}, {1, 3}, {3, 33}, {33, 64}, {257, 257}, {5000, 7}}) {
    tests::check({
        .name = fmt::format("rmsnorm [{}, {}]", rows, dim),
        .inputs = {{.shape = {rows, dim}, .mean = 0.3}},
        .params = {{.shape = {dim}, .mean = 1, .deviation = 0.3}},
        .op = [](Tape& t,
                 const auto& given) { return ops::rmsnorm(t, given.inputs[0], *given.params[0], 1e-2f); },
        .reference =
            [rows = std::size_t(rows), dim = std::size_t(dim)](const std::vector<tests::Numbers>& v) {
              tests::Numbers y;
              for (std::size_t r = 0; r < rows; r++) {
                const std::span<const tests::Number> x(&v[0][r * dim], dim);
                const tests::Number scale = 1 / sqrt(dot(x, x) / double(dim) + double(1e-2f));
                for (std::size_t c = 0; c < dim; c++) y.push_back(stored(x[c] * scale * v[1][c]));
              }
              return y;
            },
    });
  }
}

TEST_CASE("rmsnorm names a weight of the wrong size") {
  Stream stream{Device{}};
  Arena arena{Device{}};
  Context context{stream, arena};
  Tape tape(context);
  Param weight;
  weight.name = "layers.0.norm";
  weight.value = Tensor::persistent({}, {8}, DType::f32);
  CHECK_THROWS_WITH_AS(ops::rmsnorm(tape, Tensor::persistent({}, {2, 7}, DType::f32), weight, 1e-6f),
                       "rmsnorm: layers.0.norm is [8], expected [7]", Error);
}
