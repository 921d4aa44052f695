#include "engine/optimizer.h"

#include <cmath>

#include "kernels/basic.h"

namespace engine {
namespace {

Tensor raw(Device device, std::int64_t bytes) {
  return Tensor::persistent(device, {(bytes + 3) / 4}, DType::f32);
}
double* doubles(const Tensor& t) { return static_cast<double*>(t.data()); }

}  // namespace

AdamW::AdamW(ParamStore& store, AdamWConfig config) : store_(store), config_(config) {
  const Device device = store.device();
  const std::int64_t blocks = (store.total() + k::kSumBlock - 1) / k::kSumBlock;
  m_ = Tensor::persistent(device, {store.total()}, DType::f32);
  v_ = Tensor::persistent(device, {store.total()}, DType::f32);
  partial_ = raw(device, blocks * std::int64_t(sizeof(double)));
  sum_ = raw(device, sizeof(double));
  scalars_ = raw(device, sizeof(k::AdamWScalars));
}

k::AdamWScalars AdamW::scalars(std::int64_t step, double learning_rate) const noexcept {
  return {.learning_rate = float(learning_rate),
          .correction1 = float(1 - std::pow(double(config_.beta1), double(step))),
          .correction2 = float(1 - std::pow(double(config_.beta2), double(step)))};
}

void AdamW::step(Context& context, std::int64_t step, double learning_rate) {
  const k::AdamWScalars now = scalars(step, learning_rate);
  context.stream.copy(scalars_.data(), &now, sizeof now);
  update(context);
}

void AdamW::update(Context& context) {
  for (auto& p : store_.all())
    if (!p.touched) context.stream.fill(p.grad.data(), 0, p.grad.bytes());
  context.launch(
      "gradient norm",
      k::SumSquares{
          .sum = doubles(sum_), .partial = doubles(partial_), .x = store_.grads(), .count = store_.total()});
  context.launch("adamw",
                 k::AdamW{.value = store_.values().out(),
                          .master = store_.values().dtype() == DType::f32 ? nullptr : store_.masters().f32(),
                          .m = m_.f32(),
                          .v = v_.f32(),
                          .grad = store_.grads().f32(),
                          .sum_of_squares = doubles(sum_),
                          .scalars = static_cast<const k::AdamWScalars*>(scalars_.data()),
                          .count = store_.total(),
                          .decayed = store_.decayed(),
                          .beta1 = config_.beta1,
                          .beta2 = config_.beta2,
                          .eps = config_.eps,
                          .decay = config_.decay,
                          .clip = config_.clip});
}

double AdamW::grad_norm(Stream& stream) const {
  double sum = 0;
  stream.copy(&sum, sum_.data(), sizeof sum);
  stream.wait();
  return std::sqrt(sum);
}

}  // namespace engine
