#include "engine/tape.h"

#include <stdexcept>

#include "kernels/ffn.h"
#include "tests/op_case.h"
#include "tests/small_net.h"

using namespace engine;
using tests::Numbers;
using tests::SmallNet;

namespace {

// Rehearses f, commits, and runs it again.
template <class F> void perform(F f) {
  Stream stream{Device{}};
  Arena arena{Device{}};
  Context context{stream, arena};
  f(context);
  arena.commit();
  stream.fill(arena.base(), 0xff, arena.peak());
  f(context);
  CHECK(arena.empty());
}

Tensor constant(std::int64_t n, float value) {
  Tensor t = Tensor::persistent({}, {n}, DType::f32);
  std::fill_n(t.f32(), n, value);
  return t;
}

}  // namespace

TEST_CASE("tape: a value used several times, while its gradient is shared") {
  tests::check({
      .name = "z = (x + x) + x",
      .inputs = {{.shape = {33}}},
      .op =
          [](Tape& t, const auto& given) {
            const Tensor& x = given.inputs[0];
            return ops::add(t, ops::add(t, x, x), x);
          },
      .reference = [](const std::vector<Numbers>& v) { return tests::added(tests::added(v[0], v[0]), v[0]); },
  });
  tests::check({
      .name = "z = x w + (x w + x), one product",
      .inputs = {{.shape = {33, 1}}},
      .params = {{.shape = {1, 1}}},
      .op =
          [](Tape& t, const auto& given) {
            const Tensor y = ops::linear(t, given.inputs[0], *given.params[0]);
            return ops::add(t, y, ops::add(t, y, given.inputs[0]));
          },
      .reference =
          [](const std::vector<Numbers>& v) {
            const Numbers y = tests::linear(v[0], v[1], nullptr, 33);
            return tests::added(y, tests::added(y, v[0]));
          },
  });
}

TEST_CASE("tape: a pre-norm residual network runs no launch beyond its ops") {
  SmallNet net(6, 8, 4);
  const SmallNet::Step step = net.train(false);
  // a block: norm, product, swiglu, product; and back: swiglu, two for the norm and for each product. The
  // residual stream costs nothing: it is added inside the second product, and its gradient in place.
  const std::int64_t loss = 4;  // logits, cross entropy, two gradients
  CHECK(step.launches == 4 * (4 + 7) + loss);
}

TEST_CASE("tape: the same addresses and the same bits every step") {
  SmallNet net(6, 8, 4);
  const std::vector<SmallNet::Step> steps = net.train_steps(3, false);
  for (const SmallNet::Step& step : steps) {
    CHECK(step.loss_at == steps[0].loss_at);
    CHECK(tests::same_bits(step.gradients, steps[0].gradients));
    CHECK(step.launches == steps[0].launches);
  }
}

TEST_CASE("tape: another tape's value throws instead of losing its gradient") {
  perform([](Context& context) {
    Tape outer(context), inner(context);
    const Tensor x = outer.leaf(constant(3, 1)), y = inner.leaf(constant(3, 1));
    const Tensor z = ops::add(inner, y, x);
    CHECK_THROWS_AS(inner.backward(z, constant(3, 1)), std::logic_error);
    CHECK_THROWS_AS(inner.grad(x), std::logic_error);
  });
}

TEST_CASE("tape: constants take no gradient, leaves nothing reaches have none") {
  perform([](Context& context) {
    Tape t(context);
    const Tensor x = t.leaf(constant(3, 2)), unused = t.leaf(constant(3, 1)), c = constant(3, 5);
    const Tensor y = ops::add(t, x, c);
    t.backward(y, constant(3, 7));
    CHECK(!t.grad(unused));
    CHECK(!c.differentiable());
    if (context.arena.committed()) CHECK(t.grad(x).to_host(context.stream) == std::vector<float>{7, 7, 7});
  });
}

TEST_CASE("tape: a node with several outputs runs if any is reached, and not if none is") {
  perform([](Context& context) {
    Tape t(context);
    int ran = 0;
    Tensor a = t.make({2}), b = t.make({2}), other = t.make({2});
    t.record("pair", {&a, &b}, [&](Back& back) {
      ran++;
      CHECK(!back.dy(0));
      CHECK(back.dy(1));
    });
    t.record("unreached", {&other}, [&](Back&) { ran += 100; });
    t.backward(b, constant(2, 1));
    CHECK(ran == 1);
  });
}

TEST_CASE("tape: inference keeps nothing") {
  Stream stream{Device{}};
  Arena arena{Device{}};
  Context context{stream, arena};
  Tape t(context, Tape::Mode::infer);
  Tensor x = constant(1000, 1);
  for (int i = 0; i < 10; i++) x = ops::add(t, x, x);
  CHECK(arena.peak() == 2 * 4096);  // an input and an output
  CHECK(!x.differentiable());
}

TEST_CASE("tape: a failing kernel is an error that names the op") {
  Stream stream{Device{}};
  Arena arena{Device{}};
  arena.commit();
  Context context{stream, arena};
  Tape t(context);
  Tensor x = Tensor::persistent({}, {2}, DType::i32);
  const k::GeluForward p{.y = x.out(), .x = x, .count = 2};
  CHECK_THROWS_WITH_AS(t.launch("gelu", p), "gelu: unsupported dtype", DeviceError);
}
