// A pre-norm residual network with SwiGLU and a loss: what the tape and recompute() are tried on.
#pragma once
#include "tests/op_case.h"

namespace tests {

class SmallNet {
 public:
  struct Step {
    const void* loss_at = nullptr;
    std::int64_t launches = 0;
    std::size_t peak = 0;
    std::vector<float> losses, gradients;  // of all parameters and the input, one after the other
  };

  SmallNet(std::int64_t rows, std::int64_t dim, int layers) : layers_(layers) {
    input_ = filled({rows, dim}, 0, 1);
    targets_ = engine::Tensor::persistent({}, {rows}, engine::DType::i32);
    for (std::int64_t r = 0; r < rows; r++) targets_.i32()[r] = std::int32_t(r % kVocab);
    for (int l = 0; l < layers; l++) {
      param({dim}, 1, 0.1);
      param({4 * dim, dim}, 0, 0.3);
      param({dim, 2 * dim}, 0, 0.3);
    }
    param({kVocab, dim}, 0, 0.3);
  }

  std::vector<Step> train_steps(int count, bool recompute) {
    engine::Arena arena{engine::Device{}};
    engine::Context context{stream_, arena};
    step(context, recompute);
    arena.commit();
    std::vector<Step> steps;
    for (int i = 0; i < count; i++) {
      stream_.fill(arena.base(), 0xff, arena.peak());
      for (engine::Param& p : params_) stream_.fill(p.grad.data(), 0xff, p.grad.bytes());
      steps.push_back(step(context, recompute));
      CHECK(arena.empty());
    }
    return steps;
  }
  Step train(bool recompute) { return train_steps(1, recompute)[0]; }

 private:
  static constexpr std::int64_t kVocab = 13;

  engine::Tensor filled(engine::Shape shape, double mean, double deviation) {
    engine::Tensor t = engine::Tensor::persistent({}, shape, engine::DType::f32);
    const Doubles x = random_values(std::size_t(shape.numel()), seed_++, mean, deviation);
    std::copy(x.begin(), x.end(), t.f32());
    return t;
  }
  void param(engine::Shape shape, double mean, double deviation) {
    engine::Param& p = params_.emplace_back();
    p.value = filled(shape, mean, deviation);
    p.grad = engine::Tensor::persistent({}, shape, engine::DType::f32);
  }

  Step step(engine::Context& context, bool recompute) {
    context.launches = 0;
    for (engine::Param& p : params_) p.touched = false;
    engine::Tape tape(context);
    const engine::Tensor leaf = tape.leaf(input_);
    engine::Tensor x = leaf;
    for (int l = 0; l < layers_; l++) {
      auto block = [this, l](engine::Tape& t, const engine::Tensor& in) {
        namespace ops = engine::ops;
        const std::size_t first = std::size_t(3 * l);
        engine::Param &norm = params_[first], &up = params_[first + 1], &down = params_[first + 2];
        return ops::linear_add(t, ops::swiglu(t, ops::linear(t, ops::rmsnorm(t, in, norm, 1e-6f), up)), down,
                               nullptr, in);
      };
      x = recompute ? engine::ops::recompute(tape, x, block) : block(tape, x);
    }
    const engine::Tensor loss =
        engine::ops::linear_cross_entropy(tape, x, params_.back(), targets_, kVocab, 0.1f);
    x = {};
    tape.backward(loss);
    Step result{loss.data(), context.launches, context.arena.peak(), {}, {}};
    if (!context.arena.committed()) return result;
    result.losses = loss.to_host(stream_);
    result.gradients = tape.grad(leaf).to_host(stream_);
    for (const engine::Param& p : params_) {
      const std::vector<float> g = p.grad.to_host(stream_);
      result.gradients.insert(result.gradients.end(), g.begin(), g.end());
    }
    return result;
  }

  engine::Stream stream_{engine::Device{}};
  int layers_;
  unsigned seed_ = 1;
  engine::Tensor input_, targets_;
  std::deque<engine::Param> params_;
};

}  // namespace tests
