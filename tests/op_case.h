// One description of an op, turned into every check that an op must pass.
//
// check() runs the op as a training step does (rehearse, commit, run) and compares it with a float64
// reference: the output directly, the gradients of all inputs and parameters with central differences of the
// reference. All memory the op did not write itself holds NaN, in and around every tensor. Where there is a
// card, the same is done there, in fp32 and in bf16.
#pragma once
#include <doctest/doctest.h>
#include <omp.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "engine/ops.h"

namespace tests {

using Doubles = std::vector<double>;

// Bounds on relative_error() for fp32 storage; gradients against differences of the reference.
inline constexpr double kForwardBound = 1e-5, kGradientBound = 1e-5;
inline constexpr double kRepeatBound = 1e-6;  // the same sum, rounded in another order
// bf16 storage: a value is off by up to 2^-9 of itself, 0.0011 in the 2-norm, and an op rounds its result and
// at most a few things on the way there.
inline constexpr double kBf16ForwardBound = 5e-3, kBf16GradientBound = 1e-2;

inline double norm(const Doubles& x) {
  double sum = 0;
  for (double v : x) sum += v * v;
  return std::sqrt(sum);
}

// |got - expected| / |expected| in the 2-norm, |got| where nothing is expected. NaN if anything is.
template <class T> double relative_error(const std::vector<T>& got, const Doubles& expected) {
  if (got.size() != expected.size()) return std::numeric_limits<double>::infinity();
  Doubles off(got.size());
  for (std::size_t i = 0; i < off.size(); i++) off[i] = double(got[i]) - expected[i];
  const double size = norm(expected);
  return norm(off) / (size > 0 ? size : 1);
}

// Bit by bit: NaN equals itself, 0 and -0 differ.
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Independent normal values that fp32 holds exactly.
inline Doubles random_values(std::size_t count, unsigned seed, double mean = 0, double deviation = 1) {
  std::mt19937 bits(seed);
  std::normal_distribution<double> draw(mean, deviation);
  Doubles x(count);
  for (double& v : x) v = double(float(draw(bits)));
  return x;
}

// f() with this many OpenMP threads.
template <class F> auto on_threads(int threads, F f) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  auto result = f();
  omp_set_num_threads(before);
  return result;
}

// A persistent tensor between two bands of NaN, which nobody may write.
class Guarded {
 public:
  Guarded(engine::Device device, engine::Shape shape, engine::Stream& stream,
          engine::DType dtype = engine::DType::f32)
      : stream_(stream), shape_(shape) {
    whole_ = engine::Tensor::persistent(device, {shape.numel() + 2 * kBand}, dtype);
    poison();
  }
  engine::Tensor tensor() const { return whole_.slice(kBand, shape_); }
  void poison() { stream_.fill(whole_.data(), 0xff, whole_.bytes()); }
  void set(const Doubles& values) {
    std::vector<float> narrow(values.begin(), values.end());
    tensor().from_host(narrow.data(), stream_);
  }
  bool bands_intact() const {
    const std::vector<float> all = whole_.to_host(stream_);
    const float nan =
        whole_.dtype() == engine::DType::f32 ? std::bit_cast<float>(~0u) : std::bit_cast<float>(0xffff0000u);
    const std::vector<float> poison(kBand, nan);
    return same_bits({all.begin(), all.begin() + kBand}, poison) &&
           same_bits({all.end() - kBand, all.end()}, poison);
  }

 private:
  static constexpr std::int64_t kBand = 128;  // elements: keeps the 256-byte alignment
  engine::Stream& stream_;
  engine::Shape shape_;
  engine::Tensor whole_;
};

struct OpCase {
  struct Random {  // normal values
    engine::Shape shape;
    double mean = 0, deviation = 1;
  };
  struct Given {
    std::vector<engine::Tensor> inputs, ids;
    std::vector<engine::Param*> params;
  };
  std::string name;
  std::vector<Random> inputs = {}, params = {};     // differentiable
  std::vector<std::vector<std::int32_t>> ids = {};  // i32 [n]
  std::function<engine::Tensor(engine::Tape&, const Given&)> op;
  // The same in float64, from the inputs and then the params.
  std::function<Doubles(const std::vector<Doubles>&)> reference;
  // Ops that it is made of, one after the other. With bf16 storage each rounds its results and the next
  // starts from those, forward and back again, so that the errors of a gradient add up.
  int stages = 1;
  // Set for a loss that brings the gradient of its own sum, times this (ops::linear_cross_entropy).
  std::optional<double> own_scale = {};
};

class OpCheck {
 public:
  OpCheck(const OpCase& c, engine::Device device, engine::DType dtype = engine::DType::f32)
      : case_(c), stream_(device), dtype_(dtype) {
    unsigned seed = 1;
    auto place = [&](const OpCase::Random& random) {
      values_.push_back(
          stored(random_values(std::size_t(random.shape.numel()), seed++, random.mean, random.deviation)));
      memory_.emplace_back(device, random.shape, stream_, dtype).set(values_.back());
    };
    for (const auto& random : c.inputs) {
      place(random);
      given_.inputs.push_back(memory_.back().tensor());
    }
    for (const auto& random : c.params) {
      place(random);
      engine::Param& p = params_.emplace_back();
      p.name = "parameter " + std::to_string(params_.size());
      p.file_shape = random.shape;
      p.value = memory_.back().tensor();
      p.grad = gradients_.emplace_back(device, random.shape, stream_).tensor();
      given_.params.push_back(&p);
    }
    for (const auto& ids : c.ids) {
      given_.ids.push_back(
          engine::Tensor::persistent(device, {std::int64_t(ids.size())}, engine::DType::i32));
      stream_.copy(given_.ids.back().data(), ids.data(), ids.size() * sizeof(std::int32_t));
      stream_.wait();
    }
    const Doubles y = c.reference(values_);
    weights_ = c.own_scale ? Doubles(y.size(), *c.own_scale) : stored(random_values(y.size(), 1000));
  }

  void run() {
    INFO(case_.name);
    const Result one = on_threads(1, [&] { return train(1, 1); });
    const Result two = on_threads(2, [&] { return train(1, 1); }),
                 again = on_threads(2, [&] { return train(1, 1); });
    const Result twice_used = train(2, 1), two_passes = train(1, 2);

    const double repeat_bound = narrow() ? kBf16ForwardBound : kRepeatBound;
    CHECK(relative_error(one.y, case_.reference(values_)) < (narrow() ? kBf16ForwardBound : kForwardBound));
    check_against_differences(one);
    CHECK(same_bits(infer(), one.y));
    CHECK(same_bits(one.y, two.y));
    CHECK(same_bits(two.y, again.y));
    for (std::size_t i = 0; i < one.gradients.size(); i++) {
      CAPTURE(i);
      CHECK(same_bits(one.gradients[i], two.gradients[i]));
      CHECK(same_bits(two.gradients[i], again.gradients[i]));
      Doubles expected(one.gradients[i].begin(), one.gradients[i].end());
      const bool of_param = i >= case_.inputs.size();  // an input's gradient belongs to one tape
      if (!of_param) CHECK(relative_error(two_passes.gradients[i], expected) == 0);
      for (double& v : expected) v *= 2;
      CHECK(relative_error(twice_used.gradients[i], expected) < repeat_bound);
      if (of_param) CHECK(relative_error(two_passes.gradients[i], expected) < kRepeatBound);
    }
    for (std::size_t i = 0; i < memory_.size(); i++) {  // nothing was written that may only be read
      CHECK(memory_[i].bands_intact());
      CHECK(relative_error(memory_[i].tensor().to_host(stream_), values_[i]) == 0);
    }
    for (const Guarded& gradient : gradients_) CHECK(gradient.bands_intact());
  }

 private:
  bool narrow() const noexcept { return dtype_ == engine::DType::bf16; }
  Doubles stored(Doubles values) const {  // as the storage type holds them
    if (narrow())
      for (double& v : values) v = double(float(k::bf16(float(v))));
    return values;
  }

  struct Result {
    std::vector<float> y;
    std::vector<std::vector<float>> gradients;  // of the inputs, then the params
  };

  // `uses` of the op on the same values within one tape, added up; `passes` steps that add to the params'
  // gradients.
  Result train(int uses, int passes) {
    engine::Arena arena(stream_.device());
    engine::Context context{stream_, arena};
    for (engine::Param& p : params_) p.touched = false;
    step(context, uses);  // rehearsal
    CHECK(arena.empty());
    arena.commit();
    for (Guarded& gradient : gradients_) gradient.poison();
    for (engine::Param& p : params_) p.touched = false;
    Result result;
    for (int pass = 0; pass < passes; pass++) {
      stream_.fill(arena.base(), 0xff, arena.peak());
      result = step(context, uses);
      CHECK(arena.empty());
    }
    return result;
  }

  Result step(engine::Context& context, int uses) {
    engine::Tape tape(context);
    OpCase::Given given = given_;
    for (engine::Tensor& x : given.inputs) x = tape.leaf(x);
    engine::Tensor y = case_.op(tape, given);
    for (int use = 1; use < uses; use++) y = engine::ops::add(tape, y, case_.op(tape, given));
    if (case_.own_scale) {
      tape.backward(y);
    } else {
      Guarded seed(stream_.device(), y.shape(), stream_, y.dtype());
      seed.set(weights_);
      tape.backward(y, seed.tensor());
      CHECK(relative_error(seed.tensor().to_host(stream_), weights_) == 0);
    }
    if (!context.arena.committed()) return {};
    Result result{y.to_host(stream_), {}};
    for (const engine::Tensor& x : given.inputs) result.gradients.push_back(tape.grad(x).to_host(stream_));
    for (const engine::Param& p : params_) result.gradients.push_back(p.grad.to_host(stream_));
    return result;
  }

  std::vector<float> infer() {
    engine::Arena arena(stream_.device());
    engine::Context context{stream_, arena};
    auto forward = [&] {
      engine::Tape tape(context, engine::Tape::Mode::infer);
      engine::Tensor y = case_.op(tape, given_);
      return arena.committed() ? y.to_host(stream_) : std::vector<float>{};
    };
    forward();
    arena.commit();
    stream_.fill(arena.base(), 0xff, arena.peak());
    std::vector<float> y = forward();
    CHECK(arena.empty());
    return y;
  }

  // The derivative of the weighted sum of outputs along directions: every unit vector of a small tensor; of a
  // large one random signs, along which the mean square of <error, direction> is the square of the error's
  // norm.
  void check_against_differences(const Result& result) {
    std::mt19937 bits(7);
    for (std::size_t i = 0; i < values_.size(); i++) {
      CAPTURE(i);
      const Doubles gradient(result.gradients[i].begin(), result.gradients[i].end());
      const std::size_t size = gradient.size();
      const bool small = size <= 24;
      const std::size_t directions = small ? size : 8;
      double square = 0;
      for (std::size_t k = 0; k < directions; k++) {
        Doubles direction(size, 0.0);
        if (small) direction[k] = 1;
        else
          for (double& d : direction) d = bits() & 1 ? 1 : -1;
        double along = 0;
        for (std::size_t e = 0; e < size; e++) along += gradient[e] * direction[e];
        const double off = along - slope(i, direction);
        square += off * off / (small ? 1 : double(directions));
      }
      const double size_of_gradient = norm(gradient);
      CHECK(std::sqrt(square) / (size_of_gradient > 0 ? size_of_gradient : 1) <
            (narrow() ? case_.stages * kBf16GradientBound : kGradientBound));
    }
  }

  double slope(std::size_t i, const Doubles& direction) {
    constexpr double kStep = 1e-4;
    auto at = [&](double step) {
      std::vector<Doubles> moved = values_;
      for (std::size_t e = 0; e < direction.size(); e++) moved[i][e] += step * direction[e];
      const Doubles y = case_.reference(moved);
      double sum = 0;
      for (std::size_t e = 0; e < y.size(); e++) sum += y[e] * weights_[e];
      return sum;
    };
    return (at(kStep) - at(-kStep)) / (2 * kStep);
  }

  const OpCase& case_;
  engine::Stream stream_;
  engine::DType dtype_;
  std::vector<Doubles> values_;  // of the inputs, then the params
  Doubles weights_;              // dL/dy
  std::deque<Guarded> memory_, gradients_;
  std::deque<engine::Param> params_;
  OpCase::Given given_;
};

inline void check(const OpCase& c) {
  OpCheck(c, {}).run();
  if (engine::cuda_device_count() == 0) return;
  const engine::Device card{engine::DeviceKind::cuda, 0};
  OpCheck(c, card).run();
  OpCheck(c, card, engine::DType::bf16).run();
}

}  // namespace tests
