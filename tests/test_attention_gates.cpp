#include "kernels/attention.h"
#include "tests/attention_reference.h"

using namespace tests::attention;

namespace {

struct Case {
  std::int64_t batch = 2, heads = 3, length, dim;
  Doubles branch[3], gates, dy;

  Case(std::int64_t length, std::int64_t dim) : length(length), dim(dim) {
    for (std::uint64_t i = 0; i < 3; i++) branch[i] = random_values(i + 1, batch * heads * length * dim);
    gates = random_values(4, batch * length * heads * 3, 4);
    dy = random_values(5, batch * length * heads * dim);
  }

  Doubles formula() const {
    Doubles y;
    for (std::int64_t b = 0; b < batch; b++)
      for (std::int64_t t = 0; t < length; t++)
        for (std::int64_t h = 0; h < heads; h++)
          for (std::int64_t d = 0; d < dim; d++) {
            double sum = 0;
            for (std::int64_t i = 0; i < 3; i++)
              sum += branch[i][std::size_t(((b * heads + h) * length + t) * dim + d)] /
                     (1 + std::exp(-gates[std::size_t((b * length + t) * heads * 3 + 3 * h + i)]));
            y.push_back(sum);
          }
    return y;
  }
  double loss() const { return inner(formula(), dy); }

  std::vector<Floats> forward() const {
    Guarded y(std::int64_t(dy.size()));
    Floats c = to_floats(branch[0]), s = to_floats(branch[1]), w = to_floats(branch[2]), g = to_floats(gates);
    REQUIRE(run(k::Cpu{}, k::GatesForward{.y = y.out(),
                                          .compressed = in(c),
                                          .selected = in(s),
                                          .window = in(w),
                                          .gates = in(g),
                                          .batch = batch,
                                          .heads = heads,
                                          .length = length,
                                          .dim = dim})
                .ok());
    return {y.take()};
  }

  std::vector<Floats> backward(const std::vector<Floats>* start = nullptr, int wanted = 15) const {
    std::vector<Guarded> d;
    for (auto* input : {&branch[0], &branch[1], &branch[2], &gates})
      d.push_back(start ? Guarded((*start)[d.size()]) : Guarded(std::int64_t(input->size())));
    auto grad = [&](std::size_t i) { return wanted >> i & 1 ? d[i].grad(start != nullptr) : k::Grad{}; };
    Floats c = to_floats(branch[0]), s = to_floats(branch[1]), w = to_floats(branch[2]), g = to_floats(gates),
           df = to_floats(dy);
    REQUIRE(run(k::Cpu{}, k::GatesBackward{.dcompressed = grad(0),
                                           .dselected = grad(1),
                                           .dwindow = grad(2),
                                           .dgates = grad(3),
                                           .dy = in(df),
                                           .compressed = in(c),
                                           .selected = in(s),
                                           .window = in(w),
                                           .gates = in(g),
                                           .batch = batch,
                                           .heads = heads,
                                           .length = length,
                                           .dim = dim})
                .ok());
    return {d[0].take(), d[1].take(), d[2].take(), d[3].take()};
  }
};

}  // namespace

TEST_CASE("gates: values and gradients against the formula") {
  for (std::int64_t length : {1, 3, 5})
    for (std::int64_t dim : {2, 6, 16, 64}) {
      Case c(length, dim);
      CHECK(distance(c.forward()[0], c.formula()) < 1e-6);
      auto got = c.backward();
      if (dim > 6) continue;
      std::size_t i = 0;
      for (Doubles* input : {&c.branch[0], &c.branch[1], &c.branch[2], &c.gates})
        CHECK(distance(got[i++], numerical_gradient(*input, [&] { return c.loss(); })) < 1e-6);
    }
  Case c(17, 64);
  auto got = c.backward();
  std::size_t i = 0;
  for (Doubles* input : {&c.branch[0], &c.branch[1], &c.branch[2], &c.gates})
    CHECK(directional_error(*input, got[i++], [&] { return c.loss(); }) < 1e-6);
}

TEST_CASE("gates: same bits again and on two threads; adding; unwanted gradients") {
  Case c(65, 64);  // enough work for two threads
  repeatable([&] { return c.forward(); });
  auto once = repeatable([&] { return c.backward(); });
  CHECK(once.size() == 4);
  adds_and_skips(once,
                 [&](const std::vector<Floats>* start, int wanted) { return c.backward(start, wanted); });
}
