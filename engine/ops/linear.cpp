#include "engine/ops.h"
#include "kernels/basic.h"
#include "kernels/ffn.h"
#include "kernels/matmul.h"
#include "kernels/rows_linear.h"

namespace engine {
namespace {

// residual + x weight^T + bias; bias may be null. A closure that holds one saves x.
struct Projection {
  Tensor x;
  Param* weight;
  Param* bias;
  std::int64_t rows, in, out;

  Projection(const Tensor& x, Param& weight, Param* bias);
  Tensor forward(Tape&, const Tensor& residual) const;  // residual may be empty
  void backward(Back&, const Tensor& dy) const;         // to x, the weight and the bias
  void backward_without_bias(Back&, const Tensor& dy) const;

 private:
  void backward_bias(Back&, const Tensor& dy) const;
  void backward_weight(Back&, const Tensor& dy) const;
  void backward_x(Back&, const Tensor& dy) const;
};

Projection::Projection(const Tensor& x, Param& weight, Param* bias)
    : x(x), weight(&weight), bias(bias), rows(x.numel() / x.shape()[-1]), in(x.shape()[-1]) {
  const Shape shape = weight.value.shape();
  require(shape.rank == 2 && shape[1] == in, Exit::failure, "linear: {} is {}, expected [outputs, {}]",
          weight.name, to_string(shape), in);
  out = shape[0];
  require(!bias || bias->value.shape() == Shape{out}, Exit::failure, "linear: {} is {}, expected [{}]",
          bias ? bias->name : "", to_string(bias ? bias->value.shape() : Shape{}), out);
}

Tensor Projection::forward(Tape& t, const Tensor& residual) const {
  Tensor y = t.make({rows, out}, x.dtype());
  t.launch("linear", k::MatMul{.d = {y.data(), y.dtype(), false},
                               .a = x,
                               .b = weight->value,
                               .residual = residual ? k::In(residual) : k::In{},
                               .bias = bias ? k::In(bias->value) : k::In{},
                               .m = rows,
                               .n = out,
                               .k = in,
                               .transpose_b = true});
  return y;
}

void Projection::backward(Back& b, const Tensor& dy) const {
  b.aside(dy, [&] {
    backward_bias(b, dy);
    backward_weight(b, dy);
  });
  backward_x(b, dy);
}

void Projection::backward_without_bias(Back& b, const Tensor& dy) const {
  b.aside(dy, [&] { backward_weight(b, dy); });
  backward_x(b, dy);
}

void Projection::backward_weight(Back& b, const Tensor& dy) const {
  b.launch(
      "linear dweight",
      k::MatMul{.d = b.into(*weight), .a = dy, .b = x, .m = out, .n = in, .k = rows, .transpose_a = true});
}

void Projection::backward_x(Back& b, const Tensor& dy) const {
  if (!x.differentiable()) return;
  b.launch("linear dx", k::MatMul{.d = b.into(x), .a = dy, .b = weight->value, .m = rows, .n = in, .k = out});
}

void Projection::backward_bias(Back& b, const Tensor& dy) const {
  if (!bias) return;
  Tensor partial = b.scratch({k::column_sum_groups(rows), out});
  b.launch("linear dbias",
           k::ColumnSum{.y = b.into(*bias), .x = dy, .partial = partial.f32(), .rows = rows, .dim = out});
}

k::RowsProduct rows_product(const Projection& linear, const Tensor& y) {
  require(y.shape() == Shape({linear.rows, linear.out}), Exit::failure, "linear: {} gives [{}, {}], not {}",
          linear.weight->name, linear.rows, linear.out, to_string(y.shape()));
  return {.y = y.out(),
          .weight = linear.weight->value,
          .bias = linear.bias ? k::In(linear.bias->value) : k::In{},
          .out = linear.out};
}

struct Extras {  // of a product of few rows
  Tensor residual = {};
  bool gelu = false;
  k::RowsProduct second = {};
};

void few_rows(Tape& t, const ops::Rows& rows, const Projection& linear, const Tensor& y,
              const Extras& extras = {}) {
  const bool scratch = rows.norm && t.context().device().kind == DeviceKind::cpu;
  const Tensor normed = scratch ? t.make({linear.rows * (linear.in + 1)}) : Tensor();
  t.launch("linear of rows", k::RowsLinear{.first = rows_product(linear, y),
                                           .second = extras.second,
                                           .x = rows.x,
                                           .norm = rows.norm ? k::In(rows.norm->value) : k::In{},
                                           .residual = extras.residual ? k::In(extras.residual) : k::In{},
                                           .normed = scratch ? normed.f32() : nullptr,
                                           .rows = linear.rows,
                                           .in = linear.in,
                                           .eps = rows.eps,
                                           .gelu = extras.gelu});
}

Tensor few_rows(Tape& t, const ops::Rows& rows, Param& weight, Param* bias, const Extras& extras = {}) {
  const Projection linear(rows.x, weight, bias);
  const Tensor y = t.make({linear.rows, linear.out}, rows.x.dtype());
  few_rows(t, rows, linear, y, extras);
  return y;
}

}  // namespace

Tensor ops::logits(Tape& t, const Tensor& x, Param& head, const Tensor& into) {
  const Projection linear(x, head, nullptr);
  const Tensor y = into ? into : t.make({linear.rows, linear.out}, DType::f32);
  few_rows(t, x, linear, y);
  return y;
}

std::pair<Tensor, Tensor> ops::linear_pair(Tape& t, const Rows& x, Param& first, Param& second, Param* bias) {
  const Projection other(x.x, second, bias);
  if (!t.stepping()) {  // the narrower one leaves room beside it
    Tensor z;
    const Lanes::Job beside = t.context().lanes.run(Lane::first_branch, [&] { z = other.forward(t, {}); });
    Tensor y = linear(t, x, first);
    t.context().lanes.join(beside);
    t.record("linear", {&z}, [other](Back& b) { other.backward(b, b.dy()); });
    return {std::move(y), std::move(z)};
  }
  const Tensor z = t.make({other.rows, other.out}, x.x.dtype());
  Tensor y = few_rows(t, x, first, nullptr, {.second = rows_product(other, z)});
  return {std::move(y), z};
}

Tensor ops::linear(Tape& t, const Rows& x, Param& weight, Param* bias) {
  if (t.stepping()) return few_rows(t, x, weight, bias);
  const Projection linear(x.x, weight, bias);
  Tensor y = linear.forward(t, {});
  t.record("linear", {&y}, [linear](Back& b) { linear.backward(b, b.dy()); });
  return y;
}

Tensor ops::linear_add(Tape& t, const Tensor& x, Param& weight, Param* bias, const Tensor& residual) {
  const Projection linear(x, weight, bias);
  require(residual.numel() == linear.rows * linear.out, Exit::failure,
          "linear: {} gives [{}, {}], which cannot be added to {}", weight.name, linear.rows, linear.out,
          to_string(residual.shape()));
  if (t.stepping()) return few_rows(t, x, weight, bias, {.residual = residual});
  Tensor y = linear.forward(t, residual);
  t.record("linear", {&y}, [linear, to_residual = Slot(residual)](Back& b) {
    linear.backward(b, b.dy());
    b.pass(to_residual, b.take());
  });
  return y;
}

Tensor ops::linear_gelu(Tape& t, const Rows& x, Param& weight, Param* bias) {
  if (t.stepping()) return few_rows(t, x, weight, bias, {.gelu = true});
  const Projection linear(x.x, weight, bias);
  const Tensor inner = linear.forward(t, {});
  Tensor y = t.make(inner.shape(), inner.dtype());
  t.launch("gelu", k::GeluForward{.y = y.out(), .x = inner, .count = inner.numel()});
  t.record("linear gelu", {&y}, [linear, inner](Back& b) {
    const Tensor d = b.scratch(inner.shape(), inner.dtype());
    if (linear.bias) {
      Tensor partial = b.scratch({k::column_sum_groups(linear.rows), linear.out});
      b.launch("gelu backward", k::GeluBiasBackward{.dx = d.out(),
                                                    .dbias = b.into(*linear.bias),
                                                    .partial = partial.f32(),
                                                    .dy = b.take(),
                                                    .x = inner,
                                                    .rows = linear.rows,
                                                    .dim = linear.out});
    } else {
      b.launch("gelu backward",
               k::GeluBackward{
                   .dx = {d.data(), d.dtype(), false}, .dy = b.take(), .x = inner, .count = inner.numel()});
    }
    linear.backward_without_bias(b, d);
  });
  return y;
}

}  // namespace engine
