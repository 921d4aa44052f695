#include "kernels/ffn.h"

#include "engine/ops.h"

namespace engine {

Tensor ops::swiglu(Tape& t, const Tensor& gate_up) {
  const std::int64_t width = gate_up.shape()[-1], rows = gate_up.numel() / width, dim = width / 2;
  require(width % 2 == 0, Exit::failure, "swiglu: width {} is odd, expected gate and up of the same width",
          width);
  Tensor y = t.make({rows, dim}, gate_up.dtype());
  t.launch("swiglu", k::SwiGluForward{.y = y.out(), .x = gate_up, .rows = rows, .dim = dim});
  t.record("swiglu", {&y}, [x = gate_up, rows, dim](Back& b) {
    b.launch("swiglu backward",
             k::SwiGluBackward{.dx = b.into(x), .dy = b.dy(), .x = x, .rows = rows, .dim = dim});
  });
  return y;
}

}  // namespace engine
