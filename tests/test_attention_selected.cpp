#include <algorithm>

#include "kernels/attention.h"
#include "tests/attention_reference.h"

using namespace tests::attention;

namespace {

struct Case {
  k::AttentionShape shape;
  std::int64_t block, top;
  Doubles q, k, v, dout, gates;        // gates: multipliers of the picks' keys and values, 1
  std::vector<std::int32_t> selected;  // [rows, top]

  // Picks are drawn among the blocks that have ended by each query, its own block at its last token included.
  Case(k::AttentionShape s, std::int64_t block, std::int64_t top) : shape(s), block(block), top(top) {
    std::int64_t keys = s.batch * s.kv_heads * s.length * s.dim;
    q = random_values(1, rows() * s.dim, 2);
    k = random_values(2, keys, 2);
    v = random_values(3, keys);
    dout = random_values(4, rows() * s.dim);
    gates = Doubles(std::size_t(rows() * top), 1.);
    for (std::int64_t row = 0; row < rows(); row++) {
      std::int64_t visible = (row % s.length + 1) / block;
      Doubles draw = random_values(std::uint64_t(row) + 50, visible);
      std::vector<std::int32_t> order(static_cast<std::size_t>(visible));
      for (std::size_t w = 0; w < order.size(); w++) order[w] = std::int32_t(w);
      std::sort(order.begin(), order.end(),
                [&](auto a, auto b) { return draw[std::size_t(a)] < draw[std::size_t(b)]; });
      order.resize(std::size_t(std::min(top, visible)));
      if (row % 5 == 4 && !order.empty()) order.pop_back();
      std::sort(order.begin(), order.end());
      order.resize(std::size_t(top), -1);
      selected.insert(selected.end(), order.begin(), order.end());
    }
  }
  std::int64_t rows() const { return shape.batch * shape.heads * shape.length; }
  float scale() const { return static_cast<float>(1 / std::sqrt(double(shape.dim))); }

  std::vector<Doubles> formula() const {  // out, lse
    Doubles out, lse;
    for (std::int64_t row = 0; row < rows(); row++) {
      std::int64_t i = row % shape.length, h = row / shape.length % shape.heads;
      std::int64_t b = row / shape.length / shape.heads, kv = h * shape.kv_heads / shape.heads;
      std::vector<Key> keys;
      auto add = [&](std::int64_t token, double gate) {
        auto at = std::size_t(((b * shape.kv_heads + kv) * shape.length + token) * shape.dim);
        keys.push_back({&k[at], &v[at], gate});
      };
      for (std::size_t j = std::size_t(row * top); j < std::size_t((row + 1) * top); j++)
        for (std::int64_t t = 0; selected[j] >= 0 && t < block; t++) add(selected[j] * block + t, gates[j]);
      for (std::int64_t t = i - i % block; t <= i; t++) add(t, 1);
      Attended result = attend(&q[std::size_t(row * shape.dim)], keys, shape.dim, double(scale()));
      out.insert(out.end(), result.out.begin(), result.out.end());
      lse.push_back(result.lse);
    }
    return {out, lse};
  }
  double loss() const { return inner(formula()[0], dout); }

  std::vector<Floats> forward() const {
    Guarded out(rows() * shape.dim), lse(rows());
    Floats qf = to_floats(q), kf = to_floats(k), vf = to_floats(v);
    REQUIRE(run(k::Cpu{}, k::SelectedForward{.out = out.out(),
                                             .lse = lse.data(),
                                             .q = in(qf),
                                             .k = in(kf),
                                             .v = in(vf),
                                             .selected = selected.data(),
                                             .shape = shape,
                                             .block = block,
                                             .top = top,
                                             .scale = scale()})
                .ok());
    return {out.take(), lse.take()};
  }

  // dq, dk, dv, d_importance; `start`: the first three are added to these; `wanted`: the others have no
  // memory
  std::vector<Floats> backward(const std::vector<Floats>* start = nullptr, int wanted = 15) const {
    auto saved = forward();
    std::vector<Guarded> d;
    for (auto* input : {&q, &k, &v})
      d.push_back(start ? Guarded((*start)[d.size()]) : Guarded(std::int64_t(input->size())));
    auto grad = [&](std::size_t i) { return wanted >> i & 1 ? d[i].grad(start != nullptr) : k::Grad{}; };
    Guarded importance(rows() * top);
    Floats qf = to_floats(q), kf = to_floats(k), vf = to_floats(v), df = to_floats(dout);
    REQUIRE(run(k::Cpu{}, k::SelectedBackward{.dq = grad(0),
                                              .dk = grad(1),
                                              .dv = grad(2),
                                              .d_importance = wanted & 8 ? importance.data() : nullptr,
                                              .dout = in(df),
                                              .out = in(saved[0]),
                                              .q = in(qf),
                                              .k = in(kf),
                                              .v = in(vf),
                                              .lse = saved[1].data(),
                                              .selected = selected.data(),
                                              .shape = shape,
                                              .block = block,
                                              .top = top,
                                              .scale = scale()})
                .ok());
    return {d[0].take(), d[1].take(), d[2].take(), importance.take()};
  }
};

}  // namespace

TEST_CASE("selected attention: values against the formula, odd lengths") {
  for (std::int64_t dim : {2, 6, 16, 64})
    for (std::int64_t block : {1, 4, 16, 70})
      for (std::int64_t length :
           {std::int64_t(1), std::int64_t(3), block - 1, block, block + 1, 2 * block + 1, 6 * block + 2})
        for (std::int64_t top : {0, 1, 4}) {
          if (length < 1 || length > 150) continue;
          CAPTURE(dim);
          CAPTURE(block);
          CAPTURE(length);
          CAPTURE(top);
          Case c({2, 2, 1, length, dim}, block, top);
          auto expected = c.formula();
          auto got = c.forward();
          CHECK(distance(got[0], expected[0]) < 2e-6);
          CHECK(distance(got[1], expected[1]) < 2e-6);
        }
}

TEST_CASE("selected attention: the own block picked by its last token counts twice") {
  Case c({1, 1, 1, 8, 2}, 4, 1);
  std::fill(c.q.begin(), c.q.end(), 0.);  // every key weighs the same
  for (std::size_t i = 0; i < 8; i++) c.v[2 * i] = double(i), c.v[2 * i + 1] = 1;
  c.selected = {-1, -1, -1, 0, 0, 0, 0, 1};
  auto got = c.forward();
  const double mean[] = {0, 0.5, 1, 1.5, 2, 2.5, 3, 5.5};  // rows 4..6: 0 1 2 3 and 4..i
  for (std::size_t i = 0; i < 8; i++) {
    CHECK(double(got[0][2 * i]) == doctest::Approx(mean[i]));
    const double keys[] = {1, 2, 3, 8, 5, 6, 7, 8};
    CHECK(double(got[1][i]) == doctest::Approx(std::log(keys[i])));
  }
  c.q = random_values(9, 16, 2);  // unequal weights: block 0, picked, against the own block picked again
  c.selected[7] = 0;
  CHECK(distance(c.forward()[0], c.formula()[0]) < 2e-6);
  c.selected[7] = 1;
  CHECK(distance(c.forward()[0], c.formula()[0]) < 2e-6);
}

TEST_CASE("selected attention: gradients against central differences of the formula") {
  for (std::int64_t kv_heads : {1, 2, 4})
    for (std::int64_t length : {1, 3, 11}) {
      CAPTURE(kv_heads);
      CAPTURE(length);
      Case c({2, 4, kv_heads, length, 6}, 3, 2);
      auto got = c.backward();
      std::size_t i = 0;
      for (Doubles* input : {&c.q, &c.k, &c.v, &c.gates})  // importance: the derivative in the picks' gates
        CHECK(distance(got[i++], numerical_gradient(*input, [&] { return c.loss(); })) < 1e-5);
    }
  for (std::int64_t dim : {2, 16, 64}) {
    Case c({1, 2, 1, 200, dim}, dim == 2 ? 70 : 16, 4);
    auto got = c.backward();
    std::size_t i = 0;
    for (Doubles* input : {&c.q, &c.k, &c.v, &c.gates})
      CHECK(directional_error(*input, got[i++], [&] { return c.loss(); }) < 1e-5);
  }
}

TEST_CASE("selected attention: same bits again and on two threads; adding; unwanted gradients") {
  Case c({2, 6, 3, 37, 16}, 8, 3);
  repeatable([&] { return c.forward(); });
  auto once = repeatable([&] { return c.backward(); });
  auto twice = c.backward(&once);
  CHECK(same_bits(twice[3], once[3]));
  for (std::size_t i = 0; i < 4; i++) {
    if (i < 3) CHECK(distance(twice[i], sum_of(Doubles(once[i].begin(), once[i].end()), once[i])) < 1e-6);
    auto alone = c.backward(nullptr, 1 << i);
    CHECK(same_bits(alone[i], once[i]));
    for (std::size_t other = 0; other < 4; other++)
      if (other != i) CHECK(std::isnan(alone[other][0]));
  }
}

TEST_CASE("selected attention: a query does not feel later tokens, to the bit") {
  Case c({1, 1, 1, 70, 16}, 8, 3);
  auto before = c.forward();
  for (std::size_t token : {1, 7, 8, 33, 69}) {
    Case changed = c;
    for (std::size_t e = token * 16; e < 70 * 16; e++)
      changed.q[e] = changed.k[e] = changed.v[e] = std::nan("");
    auto after = changed.forward();
    auto count = std::ptrdiff_t(token * 16);
    CHECK(same_bits(Floats(before[0].begin(), before[0].begin() + count),
                    Floats(after[0].begin(), after[0].begin() + count)));
    CHECK(std::isnan(after[0][token * 16]));
  }
}
