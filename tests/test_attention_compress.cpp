#include "kernels/attention.h"
#include "tests/attention_reference.h"

using namespace tests::attention;

namespace {

struct Case {
  std::int64_t batch = 2, kv_heads = 3, length, dim, block;
  Doubles x, weight, bias, place, dy;

  Case(std::int64_t length, std::int64_t dim, std::int64_t block) : length(length), dim(dim), block(block) {
    x = random_values(1, batch * kv_heads * length * dim);
    weight = random_values(2, kv_heads * dim * dim * block, 0.3);
    bias = random_values(3, kv_heads * dim);
    place = random_values(4, kv_heads * block * dim);
    dy = random_values(5, batch * kv_heads * blocks() * dim);
  }
  std::int64_t blocks() const { return length / block; }

  Doubles formula() const {
    Doubles y;
    for (std::int64_t b = 0; b < batch; b++)
      for (std::int64_t h = 0; h < kv_heads; h++)
        for (std::int64_t w = 0; w < blocks(); w++)
          for (std::int64_t o = 0; o < dim; o++) {
            double sum = bias[std::size_t(h * dim + o)];
            for (std::int64_t j = 0; j < block; j++)
              for (std::int64_t d = 0; d < dim; d++)
                sum += weight[std::size_t(((h * dim + o) * dim + d) * block + j)] *
                       (x[std::size_t(((b * kv_heads + h) * length + w * block + j) * dim + d)] +
                        place[std::size_t((h * block + j) * dim + d)]);
            y.push_back(sum);
          }
    return y;
  }
  double loss() const { return inner(formula(), dy); }

  std::vector<Floats> forward() const {
    std::int64_t rows = batch * kv_heads * blocks();
    Guarded y(rows * dim), gathered(rows * dim * block);
    Floats xf = to_floats(x), wf = to_floats(weight), bf = to_floats(bias), pf = to_floats(place);
    REQUIRE(run(k::Cpu{}, k::CompressForward{.y = y.out(),
                                             .gathered = gathered.data(),
                                             .x = in(xf),
                                             .weight = in(wf),
                                             .bias = in(bf),
                                             .place = in(pf),
                                             .batch = batch,
                                             .kv_heads = kv_heads,
                                             .length = length,
                                             .dim = dim,
                                             .block = block})
                .ok());
    gathered.take();
    return {y.take()};
  }

  // dx, dweight, dbias, dplace; `start`: added to these; `wanted`: the others have no memory
  std::vector<Floats> backward(const std::vector<Floats>* start = nullptr, int wanted = 15) const {
    std::int64_t scratch = batch * kv_heads * blocks() * dim * block;
    Guarded gathered(scratch), dgathered(scratch);
    std::vector<Guarded> d;
    for (auto* input : {&x, &weight, &bias, &place})
      d.push_back(start ? Guarded((*start)[d.size()]) : Guarded(std::int64_t(input->size())));
    auto grad = [&](std::size_t i) { return wanted >> i & 1 ? d[i].grad(start != nullptr) : k::Grad{}; };
    Floats xf = to_floats(x), wf = to_floats(weight), pf = to_floats(place), df = to_floats(dy);
    REQUIRE(run(k::Cpu{}, k::CompressBackward{.dx = grad(0),
                                              .dweight = grad(1),
                                              .dbias = grad(2),
                                              .dplace = grad(3),
                                              .gathered = gathered.data(),
                                              .dgathered = dgathered.data(),
                                              .dy = in(df),
                                              .x = in(xf),
                                              .weight = in(wf),
                                              .place = in(pf),
                                              .batch = batch,
                                              .kv_heads = kv_heads,
                                              .length = length,
                                              .dim = dim,
                                              .block = block})
                .ok());
    gathered.take(), dgathered.take();
    std::vector<Floats> results;
    for (auto& g : d) results.push_back(g.take());
    return results;
  }
};

}  // namespace

TEST_CASE("compression: values against the formula, odd lengths") {
  for (std::int64_t dim : {2, 6, 16, 64})
    for (std::int64_t block : {1, 4, 16})
      for (std::int64_t length :
           {std::int64_t(1), std::int64_t(3), block - 1, block, block + 1, 2 * block + 1}) {
        if (length < 1) continue;
        CAPTURE(dim);
        CAPTURE(block);
        CAPTURE(length);
        Case c(length, dim, block);
        CHECK(distance(c.forward()[0], c.formula()) < 5e-6);
      }
}

TEST_CASE("compression: gradients against central differences of the formula") {
  for (std::int64_t length : {3, 4, 9, 11}) {
    Case c(length, 6, 4);
    auto got = c.backward();
    std::size_t i = 0;
    for (Doubles* input : {&c.x, &c.weight, &c.bias, &c.place})
      CHECK(distance(got[i++], numerical_gradient(*input, [&] { return c.loss(); })) < 1e-5);
  }
  Case c(50, 64, 16);
  auto got = c.backward();
  std::size_t i = 0;
  for (Doubles* input : {&c.x, &c.weight, &c.bias, &c.place})
    CHECK(directional_error(*input, got[i++], [&] { return c.loss(); }) < 1e-5);
}

TEST_CASE("compression: the tail of an incomplete block gets zero, a sequence without a block gives zeros") {
  Case c(11, 6, 4);
  auto got = c.backward();
  for (std::size_t unit = 0; unit < 6; unit++)
    for (std::size_t e = 8 * 6; e < 11 * 6; e++) CHECK(got[0][unit * 66 + e] == 0);
  for (auto& gradient : Case(3, 6, 4).backward())
    for (float x : gradient) CHECK(x == 0);
}

TEST_CASE("compression: same bits again and on two threads; adding; unwanted gradients") {
  Case c(37, 16, 8);
  repeatable([&] { return c.forward(); });
  auto once = repeatable([&] { return c.backward(); });
  CHECK(once.size() == 4);
  adds_and_skips(once,
                 [&](const std::vector<Floats>* start, int wanted) { return c.backward(start, wanted); });
}

TEST_CASE("compression: equal blocks give equal bits; a block depends on its own tokens alone") {
  Case c(5 * 16, 64, 16);
  std::size_t block = 16 * 64;
  for (std::size_t w = 1; w < 5; w++)
    std::copy_n(c.x.begin(), block, c.x.begin() + std::ptrdiff_t(w * block));
  Floats same = c.forward()[0];
  for (std::size_t e = 0; e < 5 * 64; e++) CHECK(same[e] == same[e % 64]);

  for (std::size_t e = 3 * block; e < 4 * block; e++) c.x[e] = -2;
  Floats changed = c.forward()[0];
  for (std::size_t e = 0; e < changed.size(); e++) CHECK((changed[e] == same[e]) == (e / 64 != 3));
}
