#include "engine/tape.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>

#include "kernels/basic.h"

namespace engine {
namespace {
unsigned next_serial() {
  static std::atomic<unsigned> last{0};
  return ++last;
}
}  // namespace

void Context::wait_after(const char* op) try { stream.wait(); } catch (const DeviceError& error) {
  throw DeviceError(fmt::format("{}: {}", op, error.what()), Exit::gpu);
}

Tape::Tape(Context& context, Mode mode) : context_(context), mode_(mode), serial_(next_serial()) {}

Tensor Tape::make(Shape shape, DType dtype) { return Tensor::in_arena(context_.arena, shape, dtype); }

void Tape::mark(Tensor& t) {
  t.id_ = int(gradients_.size());
  t.tape_ = serial_;
  gradients_.emplace_back();
}

Tensor Tape::leaf(Tensor x) {
  if (training()) mark(x);
  return x;
}

void Tape::check(const char* op, const char* what, const Tensor& t) const {
  if (!context_.checks || !context_.arena.committed() || !t) return;
  const std::vector<float> values = t.to_host(context_.stream);
  const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  require(bad == values.end(), Exit::diverged,
          "{}: {} {} holds {} at element {}, the first value that is not finite", op, what,
          to_string(t.shape()), bad == values.end() ? 0.f : *bad, bad - values.begin());
}

void Tape::record(const char* op, std::initializer_list<Tensor*> outputs, Backward backward) {
  for (const Tensor* y : outputs) check(op, "its output", *y);
  if (!training()) return;
  Node node{op, {}, std::move(backward)};
  for (Tensor* y : outputs) {
    mark(*y);
    node.outputs.push_back(y->id_);
  }
  nodes_.push_back(std::move(node));
}

// A value of another tape must never collect a gradient here: inside recompute() that would send it to a
// stranger.
Tensor& Tape::gradient(const Slot& x) {
  if (x.tape != serial_) throw std::logic_error("tape: this value was recorded on another tape");
  return gradients_[std::size_t(x.id)];
}

void Tape::backward(const Slot& loss, Tensor seed) {
  gradient(loss) = std::move(seed);
  while (!nodes_.empty()) {
    Node node = std::move(nodes_.back());
    nodes_.pop_back();
    std::vector<Tensor> dy;
    bool reached = false;
    for (int id : node.outputs) {
      dy.push_back(std::move(gradients_[std::size_t(id)]));
      check(node.op, "the gradient of its output", dy.back());
      reached |= bool(dy.back());
    }
    Back back(*this, std::move(dy));
    if (reached) node.backward(back);
  }
  context_.lanes.join_all();
}

Tensor Tape::grad(const Slot& x) const { return const_cast<Tape*>(this)->gradient(x); }

k::Grad param_grad(Param& w) {
  bool add = w.touched;
  w.touched = true;
  return {w.grad.data(), w.grad.dtype(), add};
}

k::Grad Back::into(Param& w) {
  context().lanes.join(w.written_by);  // two that add to it do so in their order
  w.written_by = context().lanes.job();
  return param_grad(w);
}

k::Grad Back::into(const Slot& x) {
  if (x.id < 0) return {};
  Tensor& g = tape_.gradient(x);
  if (!g) {
    g = tape_.make(x.shape, x.dtype);
    return {g.data(), g.dtype(), false};
  }
  if (!g.unique()) {  // someone else still reads it: copy before adding
    Tensor mine = tape_.make(g.shape(), g.dtype());
    launch("gradient copy",
           k::Accumulate{.y = {mine.data(), mine.dtype(), false}, .x = g, .count = g.numel()});
    g = mine;
  }
  context().lanes.join(g.reader());
  return {g.data(), g.dtype(), true};
}

void Back::pass(const Slot& x, Tensor dy) {
  if (x.id < 0) return;
  Tensor& g = tape_.gradient(x);
  if (!g) {
    g = std::move(dy);
    return;
  }
  k::Grad to = into(x);
  launch("gradient add", k::Accumulate{.y = to, .x = dy, .count = dy.numel()});
}

Tensor Back::scratch(Shape shape, DType dtype) { return tape_.make(shape, dtype); }

Context& Back::context() const noexcept { return tape_.context(); }

}  // namespace engine
