#include "tests/formula.h"

#include <array>
#include <cmath>

#include "tests/op_case.h"

using tests::Doubles;
using tests::Evaluation;
using tests::Number;
using tests::Numbers;
using tests::Storage;

namespace {

Doubles values_of(const tests::Formula& formula, const Doubles& x, Storage storage) {
  return Evaluation(formula, {x}, 1, storage).y();
}

// By x, as of an input and as of a parameter.
std::array<Doubles, 2> gradients_of(const tests::Formula& formula, const Doubles& x, const Doubles& weights,
                                    Storage storage) {
  return {Evaluation(formula, {x}, 1, storage).gradients(weights)[0],
          Evaluation(formula, {x}, 0, storage).gradients(weights)[0]};
}

}  // namespace

TEST_CASE("formula: values and derivatives of every operation") {
  const tests::Formula formula = [](const std::vector<Numbers>& v) {
    const Number &a = v[0][0], &b = v[0][1], &c = v[0][2];
    const Number parts[] = {a * 2, 3 - b, -c};
    return Numbers{exp(a * b) / c + 1,           log(b + c) - sqrt(c),      erfc(a) * dot(v[0], v[1]),
                   sum(parts) / dot(v[0], v[0]), stored(a * 0.5) * v[1][2], 4};
  };
  const std::vector<Doubles> at = {{0.3, -0.4, 1.7}, {0.9, 2.1, -0.6}};
  const double a = at[0][0], b = at[0][1], c = at[0][2];
  const Doubles expected = {std::exp(a * b) / c + 1,
                            std::log(b + c) - std::sqrt(c),
                            std::erfc(a) * (0.9 * a + 2.1 * b - 0.6 * c),
                            (2 * a + 3 - b - c) / (a * a + b * b + c * c),
                            a * 0.5 * -0.6,
                            4};
  const Evaluation exact(formula, at, 1, Storage::exact);
  CHECK(tests::relative_error(exact.y(), expected) < 1e-15);
  for (std::size_t output = 0; output < expected.size(); output++) {
    CAPTURE(output);
    Doubles weights(expected.size(), 0.);
    weights[output] = 1;
    const std::vector<Doubles> gradients = exact.gradients(weights);
    for (std::size_t tensor = 0; tensor < 2; tensor++)
      for (std::size_t i = 0; i < 3; i++) {
        std::vector<Doubles> direction(2, Doubles(3, 0.));
        direction[tensor][i] = 1;
        CHECK(std::abs(gradients[tensor][i] - Evaluation::slope(formula, at, direction, weights)) < 1e-9);
      }
  }
  CHECK(exact.gradients({0, 1, 0, 0, 0, 0})[0][1] == doctest::Approx(1 / (b + c)).epsilon(1e-14));
}

TEST_CASE("formula: what is stored is rounded to the nearest bf16, ties to even") {
  const double spacing = std::ldexp(1., -7);  // of bf16 between 1 and 2
  const tests::Formula formula = [](const std::vector<Numbers>& v) {
    Numbers y;
    for (const Number& x : v[0]) y.push_back(stored(x + 1));
    return y;
  };
  const Doubles x = {0.25 * spacing, 0.5 * spacing, 0.75 * spacing, 1.5 * spacing, -0.0625};
  CHECK(values_of(formula, x, Storage::bf16) == Doubles{1, 1, 1 + spacing, 1 + 2 * spacing, 0.9375});
  CHECK(values_of(formula, x, Storage::exact) == Doubles{1 + x[0], 1 + x[1], 1 + x[2], 1 + x[3], 0.9375});
}

TEST_CASE("formula: gradients are rounded where tensors are stored, once they have come together") {
  const double spacing = std::ldexp(1., -7);
  const tests::Formula formula = [](const std::vector<Numbers>& v) {
    const Number x = stored(v[0][0] * 2);
    return Numbers{x, x, x};
  };
  // Added up one by one in bf16 it would stay 1.
  const Doubles weights = {1, 0.375 * spacing, 0.375 * spacing};
  const double together = 1 + spacing;
  CHECK(gradients_of(formula, {1}, weights, Storage::bf16)[0] == Doubles{2 * together});
  CHECK(gradients_of(formula, {1}, weights, Storage::exact)[0] == Doubles{2 * (1 + 0.75 * spacing)});
}

TEST_CASE("formula: gradients of inputs are stored, those of parameters are not") {
  const double spacing = std::ldexp(1., -7);
  const tests::Formula formula = [=](const std::vector<Numbers>& v) {
    return Numbers{v[0][0] * (1 + 0.75 * spacing)};
  };
  const auto [input, param] = gradients_of(formula, {1}, {1}, Storage::bf16);
  CHECK(input == Doubles{1 + spacing});
  CHECK(param == Doubles{1 + 0.75 * spacing});
}

TEST_CASE("formula: rounding changes no choice") {
  const double spacing = std::ldexp(1., -7);
  const tests::Formula formula = [](const std::vector<Numbers>& v) {
    const Number a = stored(1 + v[0][0]), b = stored(1 + v[0][1]);  // 1 both
    return Numbers{double(a < b), double(b < a), double(b > a), a - b};
  };
  CHECK(values_of(formula, {0.125 * spacing, 0.25 * spacing}, Storage::bf16) == Doubles{1, 0, 1, 0});
}

TEST_CASE("formula: how close a choice was") {
  const auto closest = [](const Doubles& x, Storage storage) {
    const tests::Formula formula = [](const std::vector<Numbers>& v) {
      for (std::size_t i = 1; i < v[0].size(); i++) note_choice(v[0][i - 1], v[0][i]);
      return Numbers{1};
    };
    return Evaluation(formula, {x}, 1, storage).closest_choice();
  };
  CHECK(closest({8, 4, 3, 1}, Storage::exact) == 0.25);
  CHECK(closest({1 + 1. / 1024, 1}, Storage::bf16) == doctest::Approx(1 / 1025.).epsilon(1e-12));
  CHECK(closest({8}, Storage::exact) == std::numeric_limits<double>::infinity());
}

TEST_CASE("formula: 1 with the derivative of a number") {
  const tests::Formula formula = [](const std::vector<Numbers>& v) {
    return Numbers{5 * one_with_slope_of(stored(v[0][0] * v[0][0]))};
  };
  const Doubles x = {1.3};
  CHECK(values_of(formula, x, Storage::exact) == Doubles{5});
  CHECK(values_of(formula, x, Storage::bf16) == Doubles{5});
  CHECK(gradients_of(formula, x, {1}, Storage::exact)[0][0] == doctest::Approx(5 * 2 * 1.3).epsilon(1e-15));
  CHECK(Evaluation::slope(formula, {x}, {{1}}, {1}) == doctest::Approx(5 * 2 * 1.3).epsilon(1e-9));
}

TEST_CASE("formula: errors of bf16 are allowed twice the formula's and one more rounding") {
  tests::Bf16Error error;
  error.add({3, 0}, {3, 0.1}, {3, 0.2f});
  error.add({0, 4}, {0.2, 4}, {0.2f, 4.1f});
  CHECK(error.count() == 4);
  CHECK(error.of_formula() == doctest::Approx(std::sqrt(0.05) / 5));
  CHECK(error.allowed() == doctest::Approx(2 * std::sqrt(0.05) / 5 + 1 / 1024.));
  CHECK(error.got() == doctest::Approx(0.3 / 5));
  tests::Bf16Error of_nothing, not_a_number, too_short;
  of_nothing.add({0, 0}, {0, 0}, {0, 0.5f});
  CHECK(of_nothing.got() == 0.5);
  not_a_number.add({1}, {1}, {std::nanf("")});
  CHECK(!(not_a_number.got() <= not_a_number.allowed()));
  too_short.add({1, 1}, {1, 1}, {1});
  CHECK(too_short.got() > too_short.allowed());
}
