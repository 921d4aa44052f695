#include "kernels/ffn.h"

#include "kernels/vector_math.h"
#include "tests/op_case.h"

using namespace engine;
using tests::check;
using tests::Number;
using tests::Numbers;
using tests::OpCase;

TEST_CASE("linear gelu") {
  struct Sizes {
    std::int64_t rows, in, out;
  };
  for (const auto& [rows, in, out] : {Sizes{1, 1, 1}, {3, 2, 33}, {33, 5, 3}, {257, 3, 264}, {1100, 2, 24}})
    for (bool with_bias : {false, true}) {
      std::vector<OpCase::Random> params{{.shape = {out, in}, .deviation = 2 / std::sqrt(double(in))}};
      if (with_bias) params.push_back({.shape = {out}});
      check({
          .name = fmt::format("gelu of [{}, {}] to {}, bias {}", rows, in, out, with_bias),
          .inputs = {{.shape = {rows, in}}},
          .params = params,
          .op =
              [=](Tape& t, const auto& given) {
                return ops::linear_gelu(t, given.inputs[0], *given.params[0],
                                        with_bias ? given.params[1] : nullptr);
              },
          .reference =
              [=, rows = rows](const std::vector<Numbers>& v) {
                Numbers y = tests::linear(v[0], v[1], with_bias ? &v[2] : nullptr, std::size_t(rows));
                for (Number& x : y) x = tests::gelu(x);
                return y;
              },
      });
    }
}

TEST_CASE("swiglu") {
  for (auto [rows, dim] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 33}, {33, 3}, {257, 65}})
    check({
        .name = fmt::format("swiglu [{}, 2 x {}]", rows, dim),
        .inputs = {{.shape = {rows, 2 * dim}, .deviation = 2}},
        .op = [](Tape& t, const auto& given) { return ops::swiglu(t, given.inputs[0]); },
        .reference =
            [rows = rows, dim = dim](const std::vector<Numbers>& v) {
              Numbers y;
              for (std::int64_t r = 0; r < rows; r++)
                for (std::int64_t c = 0; c < dim; c++) {
                  const Number gate = v[0][std::size_t(r * 2 * dim + c)],
                               up = v[0][std::size_t(r * 2 * dim + dim + c)];
                  y.push_back(stored(stored(gate / (1 + exp(-gate))) * up));
                }
              return y;
            },
    });
}

TEST_CASE("swiglu refuses an odd width") {
  Stream stream{Device{}};
  Arena arena{Device{}};
  Context context{stream, arena};
  Tape tape(context);
  CHECK_THROWS_AS(ops::swiglu(tape, tape.make({2, 7})), Error);
}

TEST_CASE("exp_f32 has fp32 precision wherever the result is a normal number") {
  double worst = 0;
  for (float x = -87.3f; x <= 88.f; x += 0.00137f) {
    const double expected = std::exp(double(x));
    worst = std::max(worst, std::abs(double(k::exp_f32(x)) - expected) / expected);
  }
  CHECK(worst < 1.2e-7);
  CHECK(k::exp_f32(0.f) == 1.f);
  CHECK(k::exp_f32(-88.f) == 0.f);
  CHECK(k::exp_f32(-std::numeric_limits<float>::infinity()) == 0.f);
  CHECK(k::exp_f32(89.f) == std::numeric_limits<float>::infinity());
  CHECK(std::isnan(k::exp_f32(std::nanf(""))));
}

TEST_CASE("normal_f32 keeps its relative precision in the lower tail") {
  double worst_below = 0, worst_density = 0;
  for (float x = -13.f; x <= 13.f; x += 0.000937f) {
    const double below = 0.5 * std::erfc(-double(x) / std::sqrt(2.0));
    const double density = std::exp(-0.5 * double(x) * double(x)) / std::sqrt(2 * std::acos(-1.0));
    const k::Normal at = k::normal_f32(x);
    worst_below = std::max(worst_below, std::abs(double(at.below) - below) / below);
    worst_density = std::max(worst_density, std::abs(double(at.density) - density) / density);
  }
  CHECK(worst_below < 6e-7);
  CHECK(worst_density < 3e-7);
  CHECK(k::normal_f32(0.f).below == doctest::Approx(0.5).epsilon(1e-7));
  CHECK(k::normal_f32(100.f).below == 1.f);
  CHECK(k::normal_f32(-100.f).below < 1e-38f);
  CHECK(std::isnan(k::normal_f32(std::nanf("")).below));
  CHECK(std::isnan(k::normal_f32(std::nanf("")).density));
}
