#include "engine/ops.h"
#include "kernels/basic.h"
#include "kernels/matmul.h"

namespace engine {
namespace {

// y = residual + x weight^T + bias; residual may be empty.
Tensor project(Tape& t, const Tensor& x, Param& weight, Param* bias, const Tensor& residual) {
  const Shape shape = weight.value.shape();
  const std::int64_t in = x.shape()[-1], rows = x.numel() / in;
  require(shape.rank == 2 && shape[1] == in, Exit::failure, "linear: {} is {}, expected [outputs, {}]",
          weight.name, to_string(shape), in);
  const std::int64_t out = shape[0];
  require(!bias || bias->value.shape() == Shape{out}, Exit::failure, "linear: {} is {}, expected [{}]",
          bias ? bias->name : "", to_string(bias ? bias->value.shape() : Shape{}), out);
  require(!residual || residual.numel() == rows * out, Exit::failure,
          "linear: {} gives [{}, {}], which cannot be added to {}", weight.name, rows, out,
          to_string(residual.shape()));

  Tensor y = t.make({rows, out}, x.dtype());
  t.launch("linear", k::MatMul{.d = {y.data(), y.dtype(), false},
                               .a = x,
                               .b = weight.value,
                               .residual = residual ? k::In(residual) : k::In{},
                               .bias = bias ? k::In(bias->value) : k::In{},
                               .m = rows,
                               .n = out,
                               .k = in,
                               .transpose_b = true});
  t.record("linear", {&y}, [x, &weight, bias, to_residual = Slot(residual), rows, in, out](Back& b) {
    b.launch(
        "linear dweight",
        k::MatMul{
            .d = b.into(weight), .a = b.dy(), .b = x, .m = out, .n = in, .k = rows, .transpose_a = true});
    if (bias) {
      Tensor partial = b.scratch({k::column_sum_groups(rows), out});
      b.launch(
          "linear dbias",
          k::ColumnSum{.y = b.into(*bias), .x = b.dy(), .partial = partial.f32(), .rows = rows, .dim = out});
    }
    if (x.differentiable())
      b.launch("linear dx",
               k::MatMul{.d = b.into(x), .a = b.dy(), .b = weight.value, .m = rows, .n = in, .k = out});
    b.pass(to_residual, b.take());
  });
  return y;
}

}  // namespace

Tensor ops::linear(Tape& t, const Tensor& x, Param& weight, Param* bias) {
  return project(t, x, weight, bias, {});
}

Tensor ops::linear_add(Tape& t, const Tensor& x, Param& weight, Param* bias, const Tensor& residual) {
  return project(t, x, weight, bias, residual);
}

}  // namespace engine
