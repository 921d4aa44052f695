#include "engine/ops.h"
#include "kernels/basic.h"

namespace engine {

Tensor ops::add(Tape& t, const Tensor& a, const Tensor& b) {
  require(a.shape() == b.shape() && a.dtype() == b.dtype(), Exit::failure, "add: {} and {} differ",
          to_string(a.shape()), to_string(b.shape()));
  Tensor y = t.make(a.shape(), a.dtype());
  t.launch("add", k::Add{.y = y.out(), .a = a, .b = b, .count = a.numel()});
  t.record("add", {&y}, [to_a = Slot(a), to_b = Slot(b)](Back& back) {
    back.pass(to_a, back.dy());
    back.pass(to_b, back.take());
  });
  return y;
}

}  // namespace engine
