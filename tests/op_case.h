// One description of an op, turned into every check that an op must pass.
//
// check() runs the op as a training step does (rehearse, commit, run) and compares its output and the
// gradients of all inputs and parameters with those of a formula (tests/formula.h). All memory the op did not
// write itself holds NaN, in and around every tensor. Where there is a card, the same is done there, in fp32
// and in bf16.
#pragma once
#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "engine/ops.h"
#include "tests/formula.h"

namespace tests {

// Bounds on relative_error() for fp32 storage.
inline constexpr double kForwardBound = 1e-5, kGradientBound = 1e-5;
inline constexpr double kRepeatBound = 1e-6;      // the same sum, rounded in another order
inline constexpr double kDifferenceBound = 1e-7;  // derivatives of a formula and its central differences

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
  Formula reference;  // from the inputs and then the params
  // Set for a loss that brings the gradient of its own sum, times this (ops::linear_cross_entropy).
  std::optional<double> own_scale = {};
};

class OpCheck {
 public:
  // `draw` chooses among random values. With bf16 they are numbers that it holds; the CPU, which has no bf16,
  // computes with them in fp32, and its results are rounded.
  OpCheck(const OpCase& c, engine::Device device, Storage storage = Storage::exact, unsigned draw = 0)
      : case_(c),
        stream_(device),
        storage_(storage),
        dtype_(storage == Storage::bf16 && device.kind == engine::DeviceKind::cuda ? engine::DType::bf16
                                                                                   : engine::DType::f32) {
    unsigned seed = 10000 * draw + 1;
    for (const auto* tensors : {&c.inputs, &c.params})
      for (const OpCase::Random& random : *tensors)
        values_.push_back(
            held(random_values(std::size_t(random.shape.numel()), seed++, random.mean, random.deviation)));
    const Evaluation exact(c.reference, values_, c.inputs.size(), Storage::exact);
    exact_y_ = exact.y();
    weights_ = c.own_scale ? Doubles(exact_y_.size(), *c.own_scale)
                           : held(random_values(exact_y_.size(), 10000 * draw + 1000));
    exact_gradients_ = exact.gradients(weights_);
    formula_parts_ = exact.parts();
    closest_choice_ = exact.closest_choice();
  }

  void run() {
    INFO(case_.name);
    place();
    const Result one = on_threads(1, [&] { return train(1, 1); });
    const Result two = on_threads(2, [&] { return train(1, 1); }),
                 again = on_threads(2, [&] { return train(1, 1); });
    const Result twice_used = train(2, 1), two_passes = train(1, 2);

    if (storage_ == Storage::exact) {
      CHECK(relative_error(one.y, exact_y_) < kForwardBound);
      for (std::size_t i = 0; i < values_.size(); i++) {
        CAPTURE(i);
        CHECK(relative_error(one.gradients[i], exact_gradients_[i]) < kGradientBound);
      }
    }
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
      if (of_param || storage_ == Storage::exact)
        CHECK(relative_error(twice_used.gradients[i], expected) < kRepeatBound);
      if (of_param) CHECK(relative_error(two_passes.gradients[i], expected) < kRepeatBound);
    }
    for (std::size_t i = 0; i < memory_.size(); i++) {  // nothing was written that may only be read
      CHECK(memory_[i].bands_intact());
      CHECK(relative_error(memory_[i].tensor().to_host(stream_), values_[i]) == 0);
    }
    for (const Guarded& gradient : gradients_) CHECK(gradient.bands_intact());
  }

  // Adds this draw's errors, by what is off. Where the op is used twice, an input's gradient is the sum of
  // two, each of which may be rounded as it is added; a formula's sum of two equal gradients rounds no
  // further.
  void compare(std::map<std::string, Bf16Error>& errors) {
    const Evaluation formula(case_.reference, values_, case_.inputs.size(), Storage::bf16);
    const std::vector<Doubles> gradients = formula.gradients(weights_);
    place();
    const Result once = on_threads(1, [&] { return train(1, 1); }),
                 twice = on_threads(1, [&] { return train(2, 1); });
    errors["the output"].add(exact_y_, formula.y(), held(once.y, !case_.own_scale));
    for (std::size_t i = 0; i < values_.size(); i++) {
      const bool of_input = i < case_.inputs.size();
      const std::string what = "the gradient of " + (of_input ? "input " + std::to_string(i)
                                                              : params_[i - case_.inputs.size()].name);
      errors[what].add(exact_gradients_[i], gradients[i], held(once.gradients[i], of_input));
      if (!of_input) continue;
      std::vector<float> half = held(twice.gradients[i], true);
      for (float& g : half) g /= 2;
      errors[what + ", used twice"].add(exact_gradients_[i], gradients[i], half);
    }
  }

  // That the formula's derivatives are its central differences, along a direction of random signs.
  void check_formula() {
    INFO(case_.name);
    std::mt19937 bits(7);
    double along = 0, square = 0;
    std::vector<Doubles> direction;
    for (const Doubles& gradient : exact_gradients_) {
      Doubles& signs = direction.emplace_back();
      for (double g : gradient) {
        signs.push_back(bits() & 1 ? 1 : -1);
        along += g * signs.back(), square += g * g;
      }
    }
    const double slope = Evaluation::slope(case_.reference, values_, direction, weights_);
    CHECK(std::abs(along - slope) <= kDifferenceBound * std::sqrt(square));
  }

  std::size_t formula_parts() const { return formula_parts_; }
  // Whether bf16 is precise enough to choose as the formula does: it changes the probabilities of blocks by
  // 0.5 percent or so.
  bool choices_are_clear() const { return closest_choice_ > 1. / 32; }

 private:
  void place() {  // the tensors on the device
    const auto put = [&](const OpCase::Random& random) {
      Guarded& memory = memory_.emplace_back(stream_.device(), random.shape, stream_, dtype_);
      memory.set(values_[memory_.size() - 1]);
      return memory.tensor();
    };
    for (const auto& random : case_.inputs) given_.inputs.push_back(put(random));
    for (const auto& random : case_.params) {
      engine::Param& p = params_.emplace_back();
      p.name = "parameter " + std::to_string(params_.size());
      p.file_shape = random.shape;
      p.value = put(random);
      p.grad = gradients_.emplace_back(stream_.device(), random.shape, stream_).tensor();
      given_.params.push_back(&p);
    }
    for (const auto& ids : case_.ids) {
      given_.ids.push_back(
          engine::Tensor::persistent(stream_.device(), {std::int64_t(ids.size())}, engine::DType::i32));
      stream_.copy(given_.ids.back().data(), ids.data(), ids.size() * sizeof(std::int32_t));
      stream_.wait();
    }
  }
  Doubles held(Doubles values) const {
    return storage_ == Storage::bf16 ? rounded(std::move(values)) : values;
  }
  // A result as bf16 holds it, if it is stored so.
  static std::vector<float> held(std::vector<float> result, bool stored) {
    if (stored)
      for (float& x : result) x = float(k::bf16(x));
    return result;
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

  const OpCase& case_;
  engine::Stream stream_;
  Storage storage_;
  engine::DType dtype_;
  std::vector<Doubles> values_, exact_gradients_;  // of the inputs, then the params
  Doubles exact_y_, weights_;                      // weights: dL/dy
  std::size_t formula_parts_;
  double closest_choice_;
  std::deque<Guarded> memory_, gradients_;
  std::deque<engine::Param> params_;
  OpCase::Given given_;
};

// With so many draws that every tensor has been seen with some hundred numbers, if that takes no longer than
// a few seconds. Draws in which rounding may change a choice say nothing and are left out.
inline void check_bf16_errors(const OpCase& c, engine::Device device) {
  constexpr std::size_t kEnough = 512, kMost = 20'000'000;  // numbers; parts of formulas
  std::map<std::string, Bf16Error> errors;
  std::size_t fewest = 0, parts = 0;
  for (unsigned draw = 0, used = 0; used < 32 && fewest < kEnough && parts < kMost; draw++) {
    OpCheck one(c, device, Storage::bf16, draw);
    parts += one.formula_parts();
    if (!one.choices_are_clear()) continue;
    one.compare(errors);
    used++;
    fewest = kEnough;
    for (const auto& [what, error] : errors) fewest = std::min(fewest, error.count());
  }
  for (const auto& [what, error] : errors) {
    INFO(c.name, ", bf16: ", what, " is off by ", error.got(), ", allowed are ", error.allowed());
    CHECK(error.got() <= error.allowed());
  }
}

inline void check(const OpCase& c) {
  OpCheck on_cpu(c, {});
  on_cpu.run();
  on_cpu.check_formula();
  constexpr std::size_t kQuick = 50'000;  // takes no time worth mentioning
  if (on_cpu.formula_parts() <= kQuick) check_bf16_errors(c, {});
  if (engine::cuda_device_count() == 0) return;
  const engine::Device card{engine::DeviceKind::cuda, 0};
  OpCheck(c, card).run();
  OpCheck(c, card, Storage::bf16).run();
  check_bf16_errors(c, card);
}

}  // namespace tests
