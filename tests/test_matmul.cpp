#include "kernels/matmul.h"

#include "tests/op_case.h"

using namespace engine;
using tests::Doubles;
using tests::Numbers;

namespace {

std::vector<float> narrow(const Doubles& x) { return {x.begin(), x.end()}; }

// One product and what it starts from, as float64.
struct Product {
  std::int64_t m, n, k;
  bool transpose_a, transpose_b, add, residual, bias;
  Doubles a, b, r, c, d;

  Product(std::int64_t m, std::int64_t n, std::int64_t k, int options)
      : m(m),
        n(n),
        k(k),
        transpose_a(options & 1),
        transpose_b(options & 2),
        add(options & 4),
        residual(options & 8),
        bias(options & 16) {
    a = tests::random_values(std::size_t(m * k), 1);
    b = tests::random_values(std::size_t(k * n), 2);
    r = tests::random_values(std::size_t(m * n), 3);
    c = tests::random_values(std::size_t(n), 4);
    d = tests::random_values(std::size_t(m * n), 5);
  }

  Doubles expected() const {
    Doubles y(std::size_t(m * n));
    for (std::int64_t i = 0; i < m; i++)
      for (std::int64_t j = 0; j < n; j++) {
        const std::size_t at = std::size_t(i * n + j);
        double sum = (add ? d[at] : 0) + (residual ? r[at] : 0) + (bias ? c[std::size_t(j)] : 0);
        for (std::int64_t q = 0; q < k; q++)
          sum += a[std::size_t(transpose_a ? q * m + i : i * k + q)] *
                 b[std::size_t(transpose_b ? j * k + q : q * n + j)];
        y[at] = sum;
      }
    return y;
  }

  std::vector<float> computed(int threads) const {
    const std::vector<float> fa = narrow(a), fb = narrow(b), fr = narrow(r), fc = narrow(c);
    std::vector<float> y = add ? narrow(d) : std::vector<float>(d.size(), std::nanf(""));
    y.push_back(std::nanf(""));
    const k::MatMul p{.d = {.p = y.data(), .add = add},
                      .a = {fa.data()},
                      .b = {fb.data()},
                      .residual = {residual ? fr.data() : nullptr},
                      .bias = {bias ? fc.data() : nullptr},
                      .m = m,
                      .n = n,
                      .k = k,
                      .transpose_a = transpose_a,
                      .transpose_b = transpose_b};
    const k::Status status = tests::on_threads(threads, [&] { return run(k::Cpu{}, p); });
    REQUIRE(status.ok());
    CHECK(std::isnan(y.back()));
    y.pop_back();
    return y;
  }
};

}  // namespace

TEST_CASE("matrix product: all transposes, with everything that can be added") {
  for (auto [m, n, k] :
       {std::array<std::int64_t, 3>{1, 1, 1}, {3, 5, 7}, {1, 257, 33}, {257, 1, 65}, {33, 257, 129}})
    for (int options = 0; options < 32; options++) {
      CAPTURE(m);
      CAPTURE(n);
      CAPTURE(k);
      CAPTURE(options);
      const Product product(m, n, k, options);
      const std::vector<float> y = product.computed(2);
      CHECK(tests::relative_error(y, product.expected()) < tests::kForwardBound);
      CHECK(tests::same_bits(y, product.computed(1)));
    }
}

TEST_CASE("matrix product: larger than a tile") {
  for (auto [m, n, k] : {std::array<std::int64_t, 3>{257, 513, 33}, {700, 300, 20}, {130, 2500, 9}})
    for (int options = 0; options < 4; options++) {
      const Product product(m, n, k, options);
      CHECK(tests::relative_error(product.computed(2), product.expected()) < tests::kForwardBound);
    }
}

TEST_CASE("matrix product: the same bits for any number of threads") {
  // The last two are shapes for which one large CBLAS call depends on its threads.
  for (auto [m, n, k] :
       {std::array<std::int64_t, 3>{300, 700, 500}, {1, 2000, 300}, {384, 26, 388}, {24, 192, 382}})
    for (int options = 0; options < 4; options++) {
      const Product product(m, n, k, options);
      const std::vector<float> one = product.computed(1);
      for (int threads : {2, 3, 8}) CHECK(tests::same_bits(one, product.computed(threads)));
    }
}

TEST_CASE("linear") {
  for (auto [rows, in, out] : {std::array<std::int64_t, 3>{1, 1, 1}, {3, 33, 5}, {1, 7, 3}, {257, 33, 65}})
    for (bool with_bias : {false, true}) {
      std::vector<tests::OpCase::Random> params = {{.shape = {out, in}}};
      if (with_bias) params.push_back({.shape = {out}});
      tests::check({
          .name = fmt::format("linear [{}, {}] to {}", rows, in, out),
          .inputs = {{.shape = {rows, in}}},
          .params = params,
          .op =
              [=](Tape& t, const auto& given) {
                return ops::linear(t, given.inputs[0], *given.params[0],
                                   with_bias ? given.params[1] : nullptr);
              },
          .reference =
              [=, rows = rows](const std::vector<Numbers>& v) {
                return tests::linear(v[0], v[1], with_bias ? &v[2] : nullptr, std::size_t(rows));
              },
      });
    }
}

TEST_CASE("linear with a residual") {
  for (auto [rows, in, out] : {std::array<std::int64_t, 3>{1, 3, 1}, {33, 17, 65}})
    tests::check({
        .name = fmt::format("linear_add [{}, {}] to {}", rows, in, out),
        .inputs = {{.shape = {rows, in}}, {.shape = {rows, out}}},
        .params = {{.shape = {out, in}}, {.shape = {out}}},
        .op =
            [](Tape& t, const auto& given) {
              return ops::linear_add(t, given.inputs[0], *given.params[0], given.params[1], given.inputs[1]);
            },
        .reference =
            [rows = rows](const std::vector<Numbers>& v) {
              return tests::added(tests::linear(v[0], v[2], &v[3], std::size_t(rows)), v[1]);
            },
    });
}

TEST_CASE("linear: the input may be its own residual") {
  tests::check({
      .name = "x + x w^T",
      .inputs = {{.shape = {5, 9}}},
      .params = {{.shape = {9, 9}}},
      .op =
          [](Tape& t, const auto& given) {
            return ops::linear_add(t, given.inputs[0], *given.params[0], nullptr, given.inputs[0]);
          },
      .reference =
          [](const std::vector<Numbers>& v) {
            return tests::added(tests::linear(v[0], v[1], nullptr, 5), v[0]);
          },
  });
}

TEST_CASE("linear names the parameter that does not fit") {
  Stream stream{Device{}};
  Arena arena{Device{}};
  Context context{stream, arena};
  Tape tape(context);
  Param weight, bias;
  weight.name = "layers.3.up", bias.name = "layers.3.bias";
  weight.value = tape.make({6, 8}), bias.value = tape.make({5});
  CHECK_THROWS_WITH_AS(ops::linear(tape, tape.make({2, 7}), weight),
                       "linear: layers.3.up is [6, 8], expected [outputs, 7]", Error);
  CHECK_THROWS_WITH_AS(ops::linear(tape, tape.make({2, 8}), weight, &bias),
                       "linear: layers.3.bias is [5], expected [6]", Error);
  CHECK_THROWS_WITH_AS(ops::linear_add(tape, tape.make({2, 8}), weight, nullptr, tape.make({2, 8})),
                       "linear: layers.3.up gives [2, 6], which cannot be added to [2, 8]", Error);
}
