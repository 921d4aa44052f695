#include "kernels/adamw.h"

#include <cmath>

#include "tests/op_case.h"

using tests::Doubles;

namespace {

struct State {
  std::vector<float> value, m, v, grad;

  explicit State(std::int64_t count)
      : m(std::size_t(count)), v(std::size_t(count)), grad(std::size_t(count)) {
    const Doubles x = tests::random_values(std::size_t(count), 1);
    value.assign(x.begin(), x.end());
  }

  // With `rounded`, value is the master of these bf16 values.
  void step(int number, float clip, std::int64_t decayed, double sum_of_squares,
            std::vector<k::bf16>* rounded = nullptr) {
    const k::AdamWScalars scalars{.learning_rate = 3e-3f,
                                  .correction1 = float(1 - std::pow(double(0.9f), number)),
                                  .correction2 = float(1 - std::pow(double(0.95f), number))};
    const k::AdamW p{.value = rounded ? k::Out{rounded->data(), k::DType::bf16} : k::Out{value.data()},
                     .master = rounded ? value.data() : nullptr,
                     .m = m.data(),
                     .v = v.data(),
                     .grad = grad.data(),
                     .sum_of_squares = &sum_of_squares,
                     .scalars = &scalars,
                     .count = std::int64_t(value.size()),
                     .decayed = decayed,
                     .beta1 = 0.9f,
                     .beta2 = 0.95f,
                     .eps = 1e-8f,
                     .decay = 0.1f,
                     .clip = clip};
    REQUIRE(run(k::Cpu{}, p).ok());
  }

  void draw_gradient(int step) {
    const Doubles g = tests::random_values(grad.size(), unsigned(100 + step), 0.2);
    grad.assign(g.begin(), g.end());
  }
  double sum_of_squares() const {
    double sum = 0;
    for (float g : grad) sum += double(g) * double(g);
    return sum;
  }
};

}  // namespace

TEST_CASE("AdamW follows its formula, clipping or not, decaying the first part only") {
  for (std::int64_t count : {1, 3, 33, 257, 40001})
    for (float clip : {0.f, 0.5f, 1e6f})
      for (std::int64_t decayed : {std::int64_t(0), count / 2, count}) {
        CAPTURE(count);
        CAPTURE(clip);
        CAPTURE(decayed);
        State state(count);
        Doubles value(state.value.begin(), state.value.end()), m(value.size()), v(value.size());
        const double beta1 = double(0.9f), beta2 = double(0.95f), rate = double(3e-3f);
        for (int step = 1; step <= 5; step++) {
          state.draw_gradient(step);
          const double sum = state.sum_of_squares();
          state.step(step, clip, decayed, sum);
          const double scale = clip > 0 ? std::min(1.0, double(clip) / std::sqrt(sum)) : 1;
          for (std::size_t i = 0; i < value.size(); i++) {
            const double g = double(state.grad[i]) * scale;
            m[i] = beta1 * m[i] + (1 - beta1) * g;
            v[i] = beta2 * v[i] + (1 - beta2) * g * g;
            const double direction = m[i] / (1 - std::pow(beta1, step)) /
                                     (std::sqrt(v[i] / (1 - std::pow(beta2, step))) + double(1e-8f));
            const double decay = std::int64_t(i) < decayed ? double(0.1f) : 0;
            value[i] -= rate * (direction + decay * value[i]);
          }
        }
        CHECK(tests::relative_error(state.value, value) < 1e-6);
        CHECK(tests::relative_error(state.m, m) < 1e-6);
        CHECK(tests::relative_error(state.v, v) < 1e-6);
      }
}

TEST_CASE("AdamW: a norm that is not finite changes nothing") {
  for (double sum : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    State state(100);
    state.draw_gradient(1);
    state.step(1, 1.f, 50, state.sum_of_squares());
    const State before = state;
    state.grad[3] = std::nanf("");
    state.step(2, 1.f, 50, sum);
    CHECK(tests::same_bits(state.value, before.value));
    CHECK(tests::same_bits(state.m, before.m));
    CHECK(tests::same_bits(state.v, before.v));
  }
}

TEST_CASE("AdamW: no gradient at all is not a division by zero") {
  State state(10);
  const State before = state;
  state.step(1, 1.f, 0, 0);
  CHECK(tests::same_bits(state.value, before.value));
}

TEST_CASE("AdamW: the same bits for any number of threads") {
  auto run = [](int threads) {
    return tests::on_threads(threads, [] {
      State state(100003);
      state.draw_gradient(1);
      state.step(1, 0.5f, 70001, state.sum_of_squares());
      return state.value;
    });
  };
  CHECK(tests::same_bits(run(1), run(2)));
  CHECK(tests::same_bits(run(1), run(3)));
}

TEST_CASE("AdamW: bf16 values are the rounded fp32 master, which moves as fp32 values do") {
  for (std::int64_t count : {1, 33, 40001}) {
    State alone(count), with_copy(count);
    std::vector<k::bf16> rounded(std::size_t(count), k::bf16(std::nanf("")));
    for (int step = 1; step <= 3; step++) {
      alone.draw_gradient(step), with_copy.draw_gradient(step);
      const double sum = alone.sum_of_squares();
      alone.step(step, 0.5f, count / 2, sum);
      with_copy.step(step, 0.5f, count / 2, sum, &rounded);
      REQUIRE(tests::same_bits(with_copy.value, alone.value));
      for (std::size_t i = 0; i < rounded.size(); i++)
        REQUIRE(rounded[i].bits == k::bf16(alone.value[i]).bits);
    }
  }
}

TEST_CASE("AdamW refuses bf16 values without a master and fp32 values with one") {
  float master = 1;
  double sum = 0;
  k::AdamW p{};
  p.sum_of_squares = &sum;
  p.value = {&master, k::DType::bf16};
  CHECK(!run(k::Cpu{}, p).ok());
  p.value = {&master}, p.master = &master;
  CHECK(!run(k::Cpu{}, p).ok());
}
