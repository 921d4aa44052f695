#include <algorithm>

#include "engine/ops.h"
#include "kernels/cross_entropy.h"
#include "kernels/matmul.h"

namespace engine {
namespace {

// Rows of logits at a time. On the CPU few enough to stay in or near a cache between the products and the
// softmax. A card's caches hold no useful number of rows; there a chunk costs a pass over the head and two
// over its fp32 gradient, which 8192 rows make small beside the products, and memory, of which it is to take
// at most 1 GiB.
std::int64_t chunk_rows(Device device, std::int64_t row_bytes) {
  const bool card = device.kind == DeviceKind::cuda;
  const std::int64_t bytes = std::int64_t(card ? 1024 : 12) << 20, most = card ? 8192 : bytes, step = 64;
  return std::clamp(bytes / row_bytes / step * step, step, most);
}

}  // namespace

Tensor ops::linear_cross_entropy(Tape& t, const Tensor& h, Param& head, const Tensor& targets,
                                 std::int64_t vocab, float grad_scale) {
  const Shape shape = head.value.shape();
  const std::int64_t width = h.shape()[-1], rows = h.numel() / width;
  require(shape.rank == 2 && shape[1] == width, Exit::failure, "loss: {} is {}, expected [vocab, {}]",
          head.name, to_string(shape), width);
  require(vocab >= 1 && vocab <= shape[0], Exit::failure, "loss: {} has {} rows for a vocabulary of {}",
          head.name, shape[0], vocab);
  require(targets.dtype() == DType::i32 && targets.numel() == rows, Exit::failure,
          "loss: {} targets for {} rows, expected as many 32-bit integers", targets.numel(), rows);

  const std::int64_t padded = shape[0];
  const std::int64_t chunk =
      std::min(rows, chunk_rows(t.context().device(), padded * std::int64_t(k::size_of(h.dtype()))));
  Tensor losses = t.make({rows});
  Tensor dh = t.training() && h.differentiable() ? t.make(h.shape(), h.dtype()) : Tensor{};
  {
    Tensor memory = t.make({chunk, padded}, h.dtype());
    for (std::int64_t first = 0; first < rows; first += chunk) {
      const std::int64_t n = std::min(chunk, rows - first);
      const Tensor x = h.slice(first * width, {n, width}), logits = memory.slice(0, {n, padded});
      const Tensor loss = losses.slice(first, {n}), target = targets.slice(first, {n});
      t.launch("logits", k::MatMul{.d = {logits.data(), logits.dtype(), false},
                                   .a = x,
                                   .b = head.value,
                                   .m = n,
                                   .n = padded,
                                   .k = width,
                                   .transpose_b = true});
      t.launch("cross entropy", k::CrossEntropy{.loss = loss.f32(),
                                                .logits = logits.out(),
                                                .targets = target.i32(),
                                                .rows = n,
                                                .vocab = vocab,
                                                .row_width = padded,
                                                .grad_scale = grad_scale,
                                                .gradient = t.training()});
      if (!t.training()) continue;
      t.launch("head dweight", k::MatMul{.d = param_grad(head),
                                         .a = logits,
                                         .b = x,
                                         .m = padded,
                                         .n = width,
                                         .k = n,
                                         .transpose_a = true});
      if (!dh) continue;
      const Tensor dx = dh.slice(first * width, {n, width});
      t.launch("head dx", k::MatMul{.d = {dx.data(), dx.dtype(), false},
                                    .a = logits,
                                    .b = head.value,
                                    .m = n,
                                    .n = width,
                                    .k = padded});
    }
  }
  t.record("loss", {&losses}, [to_h = Slot(h), dh](Back& b) mutable { b.pass(to_h, std::move(dh)); });
  return losses;
}

}  // namespace engine
