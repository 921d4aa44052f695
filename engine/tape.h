// Reverse-mode differentiation over a tape of closures. An op computes its output, then records how gradients
// flow back; what that closure captures is what is saved for the backward pass, and nothing else is.
#pragma once
#include <functional>
#include <initializer_list>
#include <vector>

#include "engine/error.h"
#include "engine/lanes.h"
#include "engine/param.h"
#include "engine/profile.h"
#include "engine/tensor.h"

namespace engine {

struct Context {  // what a step runs on; passed along, never global
  Stream& stream;
  Arena& arena;
  std::int64_t launches = 0;
  Profile* profile = nullptr;  // times every launch; null: nothing is timed
  bool checks = false;  // waits after every launch, and looks at what ops produce: the first that is not
                        // finite is an Error(diverged) that names its op
  Lanes lanes{stream, arena};

  Device device() const noexcept { return stream.device(); }

  // The one place that runs a kernel: device choice, rehearsal (nothing runs without memory), timing and
  // error context.
  template <class P> void launch(const char* op, const P& p) {
    launches++;
    if (!arena.committed()) return;
    k::Status status;
    const auto perform = [&] { status = run_here(p); };
    if (profile) profile->time(op, cost(p), lanes.stream(), perform);
    else perform();
    if (!status.ok()) throw DeviceError(fmt::format("{}: {}", op, status.what), Exit::gpu);
    if (checks) wait_after(op);
  }

 private:
  void wait_after(const char* op);
  template <class P> k::Status run_here(const P& p) {
    if (device().kind == DeviceKind::cpu) return run(k::Cpu{}, p);
    if constexpr (has_cuda && requires { run(k::Cuda{}, p); })
      return run(k::Cuda{.queue = lanes.stream().handle()}, p);
    return {1, "has no CUDA kernel in this build"};
  }
};

class Tape;

class Back {  // one node's view of the backward pass
 public:
  const Tensor& dy(std::size_t i = 0) const { return dy_[i]; }  // dL/d(output i); empty if nothing reached it
  Tensor take(std::size_t i = 0) { return std::move(dy_[i]); }  // the same, giving up this node's hold on it
  k::Grad into(const Slot&);  // where to write dL/dx: new memory, or add to what is there; null if unwanted
  k::Grad into(Param&);       // = on the step's first write, += afterwards
  void pass(const Slot&, Tensor dy);  // dL/dx += dy, sharing dy's memory when x has none yet
  Tensor scratch(Shape, DType = DType::f32);
  template <class P> void launch(const char* op, const P& p);
  // Calls f, whose launches may run beside what comes next: they write gradients of parameters alone, and
  // read no other gradient than dy. With a dy so large that each launch fills a card they run in turn.
  template <class F> void aside(const Tensor& dy, F&& f);
  Context& context() const noexcept;

 private:
  Back(Tape& tape, std::vector<Tensor> dy) : tape_(tape), dy_(std::move(dy)) {}
  friend class Tape;
  Tape& tape_;
  std::vector<Tensor> dy_;
};

k::Grad param_grad(
    Param&);  // what Back::into(Param&) gives; for ops that finish a gradient in their forward pass

class Tape {
 public:
  enum class Mode {
    train,
    infer,  // closures are dropped, so nothing is saved
    step,   // the same for one new token of each sample: a row's bits depend on no other row
  };
  using Backward = std::function<void(Back&)>;

  explicit Tape(Context& context, Mode mode = Mode::train);
  Tensor make(Shape, DType = DType::f32);  // from the arena, contents undefined
  Tensor leaf(Tensor);                     // a differentiable input
  template <class P> void launch(const char* op, const P& p) { context_.launch(op, p); }
  // Marks the outputs as functions of whatever `backward` will send gradients to.
  void record(const char* op, std::initializer_list<Tensor*> outputs, Backward backward);
  // Runs the closures from the last to the first; what they saved is freed on the way.
  void backward(const Slot& loss, Tensor seed);
  // From a loss whose op carries its own scale (ops::linear_cross_entropy): no seed is read.
  void backward(const Tensor& loss) { backward(loss, loss); }
  Tensor grad(const Slot&) const;  // of a leaf, after backward(); empty if nothing reached it
  Context& context() const noexcept { return context_; }
  bool training() const noexcept { return mode_ == Mode::train; }
  bool stepping() const noexcept { return mode_ == Mode::step; }

 private:
  struct Node {
    const char* op;
    std::vector<int> outputs;
    Backward backward;
  };
  Tensor& gradient(const Slot&);
  void mark(Tensor&);
  void check(const char* op, const char* what, const Tensor&) const;

  Context& context_;
  Mode mode_;
  unsigned serial_;
  std::vector<Node> nodes_;
  std::vector<Tensor> gradients_;  // by id
  friend class Back;
};

template <class P> void Back::launch(const char* op, const P& p) { tape_.launch(op, p); }
template <class F> void Back::aside(const Tensor& dy, F&& f) {
  constexpr std::int64_t kFillsCard = std::int64_t(1) << 25;  // more elements gain nothing and hold memory
  if (dy.numel() > kFillsCard) f();
  else dy.read_by(context().lanes.run(Lane::weights, std::forward<F>(f)));
}

}  // namespace engine
