#include "kernels/cross_entropy.h"

#include "tests/op_case.h"

using namespace engine;
using tests::Doubles;
using tests::Number;
using tests::Numbers;

namespace {

const float kNan = std::numeric_limits<float>::quiet_NaN(),
            kInfinity = std::numeric_limits<float>::infinity();

double log_sum_exp(const double* x, std::int64_t n) {
  const double top = *std::max_element(x, x + n);
  double sum = 0;
  for (std::int64_t c = 0; c < n; c++) sum += std::exp(x[c] - top);
  return top + std::log(sum);
}

// Each row's loss from h [rows, width] and head [padded, width]. Only the logits are stored: losses are fp32.
Numbers losses(const Numbers& h, const Numbers& head, const std::vector<std::int32_t>& targets,
               std::int64_t vocab) {
  const std::size_t rows = targets.size(), width = h.size() / rows;
  Numbers y(rows), logits(static_cast<std::size_t>(vocab)), weights(logits.size());
  for (std::size_t r = 0; r < rows; r++) {
    if (targets[r] < 0) continue;
    for (std::size_t c = 0; c < logits.size(); c++) {
      logits[c] = stored(tests::dot({&h[r * width], width}, {&head[c * width], width}));
      weights[c] = exp(logits[c]);
    }
    y[r] = log(sum(weights) / weights[std::size_t(targets[r])]);
  }
  return y;
}

std::vector<std::int32_t> some_targets(std::int64_t rows, std::int64_t vocab) {
  std::vector<std::int32_t> targets;
  for (std::int64_t r = 0; r < rows; r++)
    targets.push_back(std::int32_t(r % 5 == 3 ? -1 : (r * 31 + vocab - 1) % vocab));
  return targets;
}

void check_linear_cross_entropy(std::int64_t rows, std::int64_t width, std::int64_t vocab,
                                std::int64_t padded) {
  const std::vector<std::int32_t> targets = some_targets(rows, vocab);
  tests::check({
      .name = fmt::format("linear cross entropy [{}, {}], {} of {}", rows, width, vocab, padded),
      .inputs = {{.shape = {rows, width}}},
      .params = {{.shape = {padded, width}}},
      .ids = {targets},
      .op =
          [=](Tape& t, const auto& given) {
            return ops::linear_cross_entropy(t, given.inputs[0], *given.params[0], given.ids[0], vocab,
                                             0.37f);
          },
      .reference = [=](const std::vector<Numbers>& v) { return losses(v[0], v[1], targets, vocab); },
      .own_scale = double(0.37f),
  });
}

}  // namespace

TEST_CASE("cross entropy: ignored targets, padding that holds NaN and infinity") {
  for (auto [rows, vocab, row_width] :
       {std::array<std::int64_t, 3>{1, 1, 1}, {3, 33, 40}, {33, 257, 257}, {9, 3000, 3072}}) {
    CAPTURE(rows);
    CAPTURE(vocab);
    const double scale = double(0.25f);
    const std::vector<std::int32_t> targets = some_targets(rows, vocab);
    const Doubles x = tests::random_values(std::size_t(rows * row_width), 1, 0, 3);
    std::vector<float> logits(x.begin(), x.end());
    Doubles expected_loss, expected_gradient;
    for (std::int64_t r = 0; r < rows; r++) {
      const double* row = &x[std::size_t(r * row_width)];
      const std::int32_t target = targets[std::size_t(r)];
      const double all = log_sum_exp(row, vocab);
      expected_loss.push_back(target < 0 ? 0 : all - row[target]);
      for (std::int64_t c = 0; c < row_width; c++) {
        const bool counts = target >= 0 && c < vocab;
        expected_gradient.push_back(counts ? scale * (std::exp(row[c] - all) - (c == target)) : 0);
        if (c >= vocab) logits[std::size_t(r * row_width + c)] = c % 2 ? kNan : kInfinity;
      }
    }
    auto computed = [&, rows = rows, vocab = vocab, row_width = row_width](int threads, bool gradient) {
      std::vector<float> loss(std::size_t(rows), kNan), out = logits;
      const k::CrossEntropy p{.loss = loss.data(),
                              .logits = {out.data()},
                              .targets = targets.data(),
                              .rows = rows,
                              .vocab = vocab,
                              .row_width = row_width,
                              .grad_scale = float(scale),
                              .gradient = gradient};
      const k::Status status = tests::on_threads(threads, [&] { return run(k::Cpu{}, p); });
      REQUIRE(status.ok());
      return std::pair(loss, out);
    };
    const auto [loss, gradient] = computed(2, true);
    CHECK(tests::relative_error(loss, expected_loss) < tests::kForwardBound);
    CHECK(tests::relative_error(gradient, expected_gradient) < tests::kGradientBound);
    CHECK(tests::same_bits(gradient, computed(1, true).second));
    const auto [loss_alone, untouched] = computed(2, false);
    CHECK(tests::same_bits(loss, loss_alone));
    CHECK(tests::same_bits(untouched, logits));
  }
}

TEST_CASE("cross entropy: large logits do not overflow, a NaN is not hidden") {
  std::vector<float> logits = {1e4f, -1e4f, 9.999e3f, 1, 2, kNan};
  const std::vector<std::int32_t> targets = {1, 0};
  std::vector<float> loss(2);
  const k::CrossEntropy p{.loss = loss.data(),
                          .logits = {logits.data()},
                          .targets = targets.data(),
                          .rows = 2,
                          .vocab = 3,
                          .row_width = 3,
                          .grad_scale = 1,
                          .gradient = true};
  REQUIRE(run(k::Cpu{}, p).ok());
  CHECK(double(loss[0]) == doctest::Approx(2e4 + std::log1p(std::exp(-1.0))).epsilon(1e-7));
  CHECK(double(logits[0]) == doctest::Approx(1 / (1 + std::exp(-1.0))).epsilon(1e-6));
  CHECK(logits[1] == -1);
  CHECK(std::isnan(loss[1]));
}

TEST_CASE("linear cross entropy") {
  check_linear_cross_entropy(1, 1, 1, 1);
  check_linear_cross_entropy(3, 5, 33, 64);
  check_linear_cross_entropy(257, 9, 65, 65);
}

TEST_CASE("linear cross entropy in several chunks") { check_linear_cross_entropy(65, 2, 32700, 32768); }

TEST_CASE("linear cross entropy: what the padding of the head holds does not matter") {
  Stream stream{Device{}};
  const std::vector<std::int32_t> targets = some_targets(7, 5);
  auto gradients = [&](double padding) {
    Arena arena{Device{}};
    Context context{stream, arena};
    Tensor h = Tensor::persistent({}, {7, 3}, DType::f32), ids = Tensor::persistent({}, {7}, DType::i32);
    const Doubles x = tests::random_values(21, 1);
    std::copy(x.begin(), x.end(), h.f32());
    std::copy(targets.begin(), targets.end(), ids.i32());
    Param head;
    head.value = Tensor::persistent({}, {8, 3}, DType::f32),
    head.grad = Tensor::persistent({}, {8, 3}, DType::f32);
    Doubles w = tests::random_values(24, 2);
    std::fill(w.begin() + 15, w.end(), padding);
    std::copy(w.begin(), w.end(), head.value.f32());
    std::vector<float> dh;
    for (int pass = 0; pass < 2; pass++) {
      head.touched = false;
      Tape tape(context);
      Tensor leaf = tape.leaf(h);
      tape.backward(ops::linear_cross_entropy(tape, leaf, head, ids, 5, 1.f));
      if (pass == 0) arena.commit();
      else dh = tape.grad(leaf).to_host(stream);
    }
    std::vector<float> all = head.grad.to_host(stream);
    CHECK(std::all_of(all.begin() + 15, all.end(), [](float g) { return g == 0; }));
    all.insert(all.end(), dh.begin(), dh.end());
    return all;
  };
  CHECK(tests::same_bits(gradients(0), gradients(1e6)));
}

TEST_CASE("linear cross entropy checks its shapes") {
  Stream stream{Device{}};
  Arena arena{Device{}};
  Context context{stream, arena};
  Tape tape(context);
  Param head;
  head.name = "head";
  head.value = tape.make({16, 4});
  const Tensor targets = tape.make({3}, DType::i32);
  CHECK_THROWS_WITH_AS(ops::linear_cross_entropy(tape, tape.make({3, 5}), head, targets, 16, 1),
                       "loss: head is [16, 4], expected [vocab, 5]", Error);
  CHECK_THROWS_WITH_AS(ops::linear_cross_entropy(tape, tape.make({3, 4}), head, targets, 17, 1),
                       "loss: head has 16 rows for a vocabulary of 17", Error);
  CHECK_THROWS_WITH_AS(ops::linear_cross_entropy(tape, tape.make({2, 4}), head, targets, 16, 1),
                       "loss: 3 targets for 2 rows, expected as many 32-bit integers", Error);
}
