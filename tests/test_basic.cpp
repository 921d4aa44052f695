#include "kernels/basic.h"

#include "kernels/embedding.h"
#include "kernels/ffn.h"
#include "kernels/matmul.h"
#include "kernels/rmsnorm.h"
#include "tests/op_case.h"

using namespace engine;
using tests::Doubles;
using tests::Numbers;

namespace {
const float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> random_floats(std::int64_t n, unsigned seed) {
  const Doubles x = tests::random_values(std::size_t(n), seed);
  return {x.begin(), x.end()};
}
}  // namespace

TEST_CASE("add") {
  for (std::int64_t n : {1, 3, 33, 257, 70001})
    tests::check({
        .name = fmt::format("add [{}]", n),
        .inputs = {{.shape = {n}}, {.shape = {n}}},
        .op = [](Tape& t, const auto& given) { return ops::add(t, given.inputs[0], given.inputs[1]); },
        .reference = [](const std::vector<Numbers>& v) { return tests::added(v[0], v[1]); },
    });
}

TEST_CASE("add refuses different shapes") {
  Stream stream{Device{}};
  Arena arena{Device{}};
  Context context{stream, arena};
  Tape tape(context);
  CHECK_THROWS_WITH_AS(ops::add(tape, tape.make({2, 3}), tape.make({3, 2})), "add: [2, 3] and [3, 2] differ",
                       Error);
}

TEST_CASE("accumulate sets or adds") {
  for (std::int64_t n : {1, 33, 20001}) {
    const std::vector<float> x = random_floats(n, 1);
    std::vector<float> y(std::size_t(n) + 1, kNan);
    const k::In in{x.data()};
    REQUIRE(run(k::Cpu{}, k::Accumulate{.y = {y.data()}, .x = in, .count = n}).ok());
    CHECK(std::equal(x.begin(), x.end(), y.begin()));
    REQUIRE(run(k::Cpu{}, k::Accumulate{.y = {.p = y.data(), .add = true}, .x = in, .count = n}).ok());
    for (std::size_t i = 0; i < x.size(); i++) REQUIRE(y[i] == 2 * x[i]);
    CHECK(std::isnan(y.back()));
  }
}

TEST_CASE("column sum") {
  for (auto [rows, dim] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 33}, {257, 129}, {1000, 257}}) {
    CAPTURE(rows);
    CAPTURE(dim);
    const std::vector<float> x = random_floats(rows * dim, 2);
    Doubles expected(std::size_t(dim), 0.0);
    for (std::size_t i = 0; i < x.size(); i++) expected[i % std::size_t(dim)] += double(x[i]);
    auto sums = [&, rows = rows, dim = dim](int threads, bool twice) {
      return tests::on_threads(threads, [&] {
        std::vector<float> y(std::size_t(dim) + 1, kNan);
        for (bool add = false;; add = true) {
          const k::Grad to{.p = y.data(), .add = add};
          REQUIRE(run(k::Cpu{}, k::ColumnSum{.y = to, .x = {x.data()}, .rows = rows, .dim = dim}).ok());
          if (add || !twice) break;
        }
        CHECK(std::isnan(y.back()));
        y.pop_back();
        return y;
      });
    };
    CHECK(tests::relative_error(sums(1, false), expected) < tests::kForwardBound);
    CHECK(tests::same_bits(sums(1, false), sums(2, false)));
    for (double& v : expected) v *= 2;
    CHECK(tests::relative_error(sums(2, true), expected) < tests::kForwardBound);
  }
}

TEST_CASE("sum of squares does not depend on threads") {
  for (std::int64_t n : {1, 3, 1023, 65536, 65537, 300001}) {
    CAPTURE(n);
    const std::vector<float> x = random_floats(n, 3);
    double expected = 0;
    for (float v : x) expected += double(v) * double(v);
    auto sum = [&](int threads) {
      return tests::on_threads(threads, [&] {
        Doubles partial(std::size_t((n + k::kSumBlock - 1) / k::kSumBlock), std::nan(""));
        double total = std::nan("");
        const k::SumSquares p{.sum = &total, .partial = partial.data(), .x = {x.data()}, .count = n};
        REQUIRE(run(k::Cpu{}, p).ok());
        return total;
      });
    };
    CHECK(std::abs(sum(1) - expected) < 1e-6 * expected);
    CHECK(sum(1) == sum(2));
    CHECK(sum(1) == sum(3));
  }
  std::vector<float> x(70000, 1.f);
  x[69999] = kNan;
  Doubles partial(2);
  double total = 0;
  REQUIRE(
      run(k::Cpu{}, k::SumSquares{.sum = &total, .partial = partial.data(), .x = {x.data()}, .count = 70000})
          .ok());
  CHECK(std::isnan(total));
}

TEST_CASE("a gradient nobody wants is not written") {
  const std::vector<float> x(6, 1.f);
  const std::vector<std::int32_t> ids(2, 0);
  const k::In in{x.data()};
  const k::Cpu cpu;
  CHECK(run(cpu, k::Accumulate{.y = {}, .x = in, .count = 6}).ok());
  CHECK(run(cpu, k::ColumnSum{.y = {}, .x = in, .rows = 2, .dim = 3}).ok());
  CHECK(run(cpu, k::MatMul{.d = {}, .a = in, .b = in, .m = 2, .n = 2, .k = 3}).ok());
  CHECK(run(cpu, k::GeluBackward{.dx = {}, .dy = in, .x = in, .count = 6}).ok());
  CHECK(run(cpu, k::SwiGluBackward{.dx = {}, .dy = in, .x = in, .rows = 1, .dim = 3}).ok());
  CHECK(run(cpu,
            k::EmbeddingBackward{.dtable = {}, .dy = in, .ids = ids.data(), .rows = 2, .vocab = 1, .dim = 3})
            .ok());
  std::vector<float> partial(3), rstd(2, 1.f);
  CHECK(run(cpu, k::RmsNormBackward{.dx = {},
                                    .partial = partial.data(),
                                    .dy = in,
                                    .x = in,
                                    .w = in,
                                    .rstd = rstd.data(),
                                    .rows = 2,
                                    .dim = 3})
            .ok());
}

TEST_CASE("kernels refuse a storage type they lack") {
  float x[4] = {};
  const k::Add p{.y = {x, k::DType::i32}, .a = {x, k::DType::i32}, .b = {x, k::DType::i32}, .count = 1};
  CHECK(std::string(run(k::Cpu{}, p).what) == "unsupported dtype");
}

// The Makefile's MOVES: a compiler that breaks this breaks more.
TEST_CASE("constants are what they are written as") {
  const volatile double expected[] = {1, 1, 0, 0};
  const std::vector<double> doubles{1, 1, 0, 0};
  const std::vector<std::int64_t> integers{1, 1, 0, 0};
  const std::vector<float> floats{1, 1, 1, 1, 0, 0, 0, 0};
  for (std::size_t i = 0; i < 4; i++) {
    CHECK(doubles[i] == expected[i]);
    CHECK(integers[i] == std::int64_t(expected[i]));
    CHECK(floats[2 * i] == float(expected[i]));
  }
}
