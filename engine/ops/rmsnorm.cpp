#include "kernels/rmsnorm.h"

#include "engine/ops.h"
#include "kernels/basic.h"

namespace engine {

Tensor ops::rmsnorm(Tape& t, const Tensor& x, Param& weight, float eps) {
  const std::int64_t dim = x.shape()[-1], rows = x.numel() / dim;
  require(weight.value.shape() == Shape{dim}, Exit::failure, "rmsnorm: {} is {}, expected [{}]", weight.name,
          to_string(weight.value.shape()), dim);
  Tensor y = t.make(x.shape(), x.dtype()), rstd = t.make({rows});
  t.launch(
      "rmsnorm",
      k::RmsNormForward{
          .y = y.out(), .rstd = rstd.f32(), .x = x, .w = weight.value, .rows = rows, .dim = dim, .eps = eps});
  t.record("rmsnorm", {&y}, [x, &weight, rstd, rows, dim](Back& b) {
    Tensor partial = b.scratch({k::rmsnorm_groups(rows), dim});
    b.launch("rmsnorm backward", k::RmsNormBackward{.dx = b.into(x),
                                                    .partial = partial.f32(),
                                                    .dy = b.dy(),
                                                    .x = x,
                                                    .w = weight.value,
                                                    .rstd = rstd.f32(),
                                                    .rows = rows,
                                                    .dim = dim});
    const std::int64_t groups = k::rmsnorm_groups(rows);
    b.aside(b.dy(), [&] {
      Tensor scratch = b.scratch({k::column_sum_groups(groups), dim});
      b.launch("rmsnorm dweight",
               k::ColumnSum{
                   .y = b.into(weight), .x = partial, .partial = scratch.f32(), .rows = groups, .dim = dim});
    });
  });
  return y;
}

ops::Rows ops::normed(Tape& t, const Tensor& x, Param& weight, float eps) {
  return t.stepping() ? Rows(x, weight, eps) : Rows(rmsnorm(t, x, weight, eps));
}

}  // namespace engine
