#include <stdexcept>

#include "tests/op_case.h"
#include "tests/small_net.h"

using namespace engine;
using tests::Number;
using tests::Numbers;
using tests::SmallNet;

TEST_CASE("recompute: the same bits with less memory, for one more forward pass") {
  SmallNet net(60, 16, 6);
  const SmallNet::Step plain = net.train(false), again = net.train(true);
  CHECK(tests::same_bits(plain.losses, again.losses));
  CHECK(tests::same_bits(plain.gradients, again.gradients));
  CHECK(again.peak < plain.peak / 2);
  CHECK(again.launches == plain.launches + 6 * 4);
}

TEST_CASE("recompute: gradients of input and parameters") {
  tests::check({
      .name = "recompute(gelu(x w^T))",
      .inputs = {{.shape = {5, 7}}},
      .params = {{.shape = {3, 7}}},
      .op =
          [](Tape& t, const auto& given) {
            Param& w = *given.params[0];
            return ops::recompute(t, given.inputs[0], [&w](Tape& inner, const Tensor& x) {
              return ops::linear_gelu(inner, x, w, nullptr);
            });
          },
      .reference =
          [](const std::vector<Numbers>& v) {
            Numbers y = tests::linear(v[0], v[1], nullptr, 5);
            for (Number& x : y) x = tests::gelu(x);
            return y;
          },
  });
}

TEST_CASE("recompute: an outer value used inside throws instead of losing its gradient") {
  Stream stream{Device{}};
  Arena arena{Device{}};
  Context context{stream, arena};
  Tape t(context);
  const Tensor x = t.leaf(t.make({4})), other = ops::add(t, x, x);
  const Tensor y =
      ops::recompute(t, x, [&](Tape& inner, const Tensor& in) { return ops::add(inner, in, other); });
  CHECK_THROWS_AS(t.backward(y, x), std::logic_error);
}

TEST_CASE("recompute: an input that takes no gradient, a function that ignores its input") {
  Stream stream{Device{}};
  Arena arena{Device{}};
  Context context{stream, arena};
  for (int pass = 0; pass < 2; pass++) {
    Tape t(context);
    Tensor constant = Tensor::persistent({}, {4}, DType::f32);
    const Tensor y =
        ops::recompute(t, constant, [](Tape& inner, const Tensor& in) { return ops::add(inner, in, in); });
    const Tensor x = t.leaf(constant);
    const Tensor z =
        ops::recompute(t, x, [&](Tape& inner, const Tensor&) { return ops::add(inner, constant, constant); });
    t.backward(ops::add(t, y, z), constant);
    CHECK(!t.grad(x));
    if (pass == 0) arena.commit();
  }
}
