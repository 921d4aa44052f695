#include <algorithm>

#include "kernels/attention.h"
#include "tests/attention_reference.h"

using namespace tests::attention;

namespace {

struct Case {
  k::AttentionShape shape;
  std::int64_t block, slots, blocks, top;
  Doubles q, ck, cv, memory, dout;
  std::vector<std::int32_t> picks;  // frozen by freeze(): what the gradient of the importance belongs to
  Doubles d_importance;             // empty: none

  Case(k::AttentionShape s, std::int64_t block, std::int64_t slots, std::int64_t top)
      : shape(s), block(block), slots(slots), blocks(s.length / block), top(std::min(top, s.length / block)) {
    q = random_values(1, rows() * s.dim, 2);
    ck = random_values(2, s.batch * s.kv_heads * blocks * s.dim, 2);
    cv = random_values(3, s.batch * s.kv_heads * blocks * s.dim);
    memory = random_values(4, 2 * s.kv_heads * slots * s.dim);
    dout = random_values(5, rows() * s.dim);
  }
  std::int64_t rows() const { return shape.batch * shape.heads * shape.length; }
  float scale() const { return static_cast<float>(1 / std::sqrt(double(shape.dim))); }

  Attended query(std::int64_t row) const {  // keys: the memory, then the blocks that have ended by the query
    std::int64_t i = row % shape.length, h = row / shape.length % shape.heads;
    std::int64_t b = row / shape.length / shape.heads, kv = h * shape.kv_heads / shape.heads;
    std::vector<Key> keys;
    for (std::int64_t m = 0; m < slots; m++)
      keys.push_back({&memory[std::size_t((kv * slots + m) * shape.dim)],
                      &memory[std::size_t(((shape.kv_heads + kv) * slots + m) * shape.dim)]});
    for (std::int64_t w = 0; w < blocks; w++) {
      std::int64_t at = ((b * shape.kv_heads + kv) * blocks + w) * shape.dim;
      if ((w + 1) * block - 1 <= i) keys.push_back({&ck[std::size_t(at)], &cv[std::size_t(at)]});
    }
    return attend(&q[std::size_t(row * shape.dim)], keys, shape.dim, double(scale()));
  }

  struct Formula {
    Doubles out, lse;
    std::vector<std::int32_t> selected;
  };
  Formula formula() const {
    Formula f;
    for (std::int64_t row = 0; row < rows(); row++) {
      Attended result = query(row);
      f.out.insert(f.out.end(), result.out.begin(), result.out.end());
      f.lse.push_back(result.lse);
      std::vector<std::pair<double, std::int32_t>> order;  // by falling p, then by index
      for (std::size_t j = std::size_t(slots); j < result.p.size(); j++)
        order.emplace_back(-result.p[j], std::int32_t(j) - std::int32_t(slots));
      std::sort(order.begin(), order.end());
      std::vector<std::int32_t> chosen;
      for (auto& [p, w] : order)
        if (std::int64_t(chosen.size()) < top && -p > 1e-10) chosen.push_back(w);
      std::sort(chosen.begin(), chosen.end());
      chosen.resize(std::size_t(top), -1);
      f.selected.insert(f.selected.end(), chosen.begin(), chosen.end());
    }
    return f;
  }

  void freeze(bool importance) {
    picks = formula().selected;
    if (importance) d_importance = random_values(6, rows() * top, 3);
  }
  double loss() const {
    double sum = 0;
    for (std::int64_t row = 0; row < rows(); row++) {
      Attended result = query(row);
      for (std::int64_t d = 0; d < shape.dim; d++)
        sum += result.out[std::size_t(d)] * dout[std::size_t(row * shape.dim + d)];
      for (std::size_t j = std::size_t(row * top); !d_importance.empty() && j < std::size_t((row + 1) * top);
           j++)
        if (picks[j] >= 0) sum += d_importance[j] * result.p[std::size_t(slots + picks[j])];
    }
    return sum;
  }

  struct Forward {
    Floats out, lse;
    std::vector<std::int32_t> selected;
  };
  Forward forward() const {
    Guarded out(rows() * shape.dim), lse(rows()), logits(shape.batch * shape.heads * blocks);
    std::vector<std::int32_t> selected(std::size_t(rows() * top + 2), 777);
    Floats qf = to_floats(q), kf = to_floats(ck), vf = to_floats(cv), mf = to_floats(memory);
    REQUIRE(run(k::Cpu{}, k::CompressedForward{.out = out.out(),
                                               .lse = lse.data(),
                                               .selected = selected.data() + 1,
                                               .logits = logits.data(),
                                               .q = in(qf),
                                               .ck = in(kf),
                                               .cv = in(vf),
                                               .memory = in(mf),
                                               .shape = shape,
                                               .blocks = blocks,
                                               .block = block,
                                               .slots = slots,
                                               .top = top,
                                               .scale = scale()})
                .ok());
    logits.take();
    REQUIRE(selected.front() == 777);
    REQUIRE(selected.back() == 777);
    return {out.take(), lse.take(), {selected.begin() + 1, selected.end() - 1}};
  }
  std::vector<Floats> forward_values() const {
    Forward f = forward();
    return {f.out, f.lse, Floats(f.selected.begin(), f.selected.end())};
  }

  // dq, dck, dcv, dmemory; `start`: added to these; `wanted`: the others have no memory
  std::vector<Floats> backward(const std::vector<Floats>* start = nullptr, int wanted = 15) const {
    Forward saved = forward();
    std::vector<Guarded> d;
    for (auto* input : {&q, &ck, &cv, &memory})
      d.push_back(start ? Guarded((*start)[d.size()]) : Guarded(std::int64_t(input->size())));
    auto grad = [&](std::size_t i) { return wanted >> i & 1 ? d[i].grad(start != nullptr) : k::Grad{}; };
    Guarded parts(shape.batch * std::int64_t(memory.size()));
    Floats qf = to_floats(q), kf = to_floats(ck), vf = to_floats(cv), mf = to_floats(memory),
           df = to_floats(dout), importance = to_floats(d_importance);
    REQUIRE(
        run(k::Cpu{}, k::CompressedBackward{.dq = grad(0),
                                            .dck = grad(1),
                                            .dcv = grad(2),
                                            .dmemory = grad(3),
                                            .memory_parts = parts.data(),
                                            .dout = in(df),
                                            .out = in(saved.out),
                                            .q = in(qf),
                                            .ck = in(kf),
                                            .cv = in(vf),
                                            .memory = in(mf),
                                            .lse = saved.lse.data(),
                                            .selected = picks.data(),
                                            .d_importance = importance.empty() ? nullptr : importance.data(),
                                            .shape = shape,
                                            .blocks = blocks,
                                            .block = block,
                                            .slots = slots,
                                            .top = top,
                                            .scale = scale()})
            .ok());
    parts.take();
    std::vector<Floats> results;
    for (auto& g : d) results.push_back(g.take());
    return results;
  }
};

}  // namespace

TEST_CASE("compressed attention: values and picks against the formula, odd lengths") {
  for (std::int64_t dim : {2, 6, 16, 64})
    for (std::int64_t block : {1, 4, 16})
      for (std::int64_t length :
           {std::int64_t(1), std::int64_t(3), block - 1, block, block + 1, 2 * block + 1, 7 * block + 2})
        for (std::int64_t top : {0, 1, 4}) {
          if (length < 1) continue;
          CAPTURE(dim);
          CAPTURE(block);
          CAPTURE(length);
          CAPTURE(top);
          Case c({2, 4, 2, length, dim}, block, 3, top);
          auto expected = c.formula();
          auto got = c.forward();
          CHECK(distance(got.out, expected.out) < 2e-6);
          CHECK(distance(got.lse, expected.lse) < 2e-6);
          CHECK(got.selected == expected.selected);
        }
}

TEST_CASE("compressed attention: before the first block only the memory is read") {
  Case c({1, 1, 1, 5, 4}, 4, 2, 4);
  std::fill(c.memory.begin(), c.memory.end(), 0.);
  auto got = c.forward();
  for (std::size_t e = 0; e < 3 * 4; e++) CHECK(got.out[e] == 0);
  for (std::size_t i = 0; i < 3; i++) CHECK(got.lse[i] == doctest::Approx(std::log(2.)));
  CHECK(got.selected == std::vector<std::int32_t>{-1, -1, -1, 0, 0});
}

TEST_CASE("compressed attention: without memory a query that sees no block gets zeros") {
  Case c({1, 2, 1, 9, 6}, 4, 0, 2);
  auto got = c.forward();
  for (std::size_t e = 0; e < 3 * 6; e++) CHECK(got.out[e] == 0);
  CHECK(std::isinf(got.lse[2]));
  c.freeze(false);
  auto gradients = c.backward();
  for (std::size_t e = 0; e < 3 * 6; e++) CHECK(gradients[0][e] == 0);
  for (float x : gradients[1]) CHECK(std::isfinite(x));
}

TEST_CASE("compressed attention: equal blocks are picked from the lowest index on") {
  for (std::int64_t top : {1, 3, 5}) {
    Case c({1, 1, 1, 8 * 4, 64}, 4, 1, top);
    for (std::size_t w = 1; w < 8; w++)
      if (w != 5) std::copy_n(c.ck.begin(), 64, c.ck.begin() + std::ptrdiff_t(w * 64));
    auto selected = c.forward().selected;
    CHECK(selected == c.formula().selected);
    // Block 5 alone differs: where it does not win, the picks are the first of the equal ones.
    std::vector<std::int32_t> row(selected.end() - std::ptrdiff_t(top), selected.end());
    for (std::int32_t j = 0; j + 1 < std::int32_t(top); j++) CHECK(row[std::size_t(j)] == j);
    CHECK((row.back() == 5 || row.back() == std::int32_t(top) - 1));
  }
}

TEST_CASE("compressed attention: a visible block of p below 1e-10 is not picked") {
  Case c({1, 1, 1, 12, 2}, 4, 1, 3);
  std::fill(c.memory.begin(), c.memory.end(), 0.);
  for (std::size_t i = 0; i < 12; i++) c.q[2 * i] = 1, c.q[2 * i + 1] = 0;
  const double unit = std::sqrt(2.);            // a logit is q . ck / sqrt(2)
  c.ck = {-24 * unit, 0, 0, 0, -22 * unit, 0};  // with the memory's 0: p about 4e-11 / 2, 1/2, 3e-10 / 2
  auto selected = c.forward().selected;
  CHECK(std::vector<std::int32_t>(selected.end() - 3, selected.end()) == std::vector<std::int32_t>{1, 2, -1});
  CHECK(std::vector<std::int32_t>(selected.begin() + 12, selected.begin() + 15) ==
        std::vector<std::int32_t>{-1, -1, -1});
  CHECK(selected == c.formula().selected);
}

TEST_CASE("compressed attention: gradients against central differences of the formula") {
  for (bool importance : {false, true})
    for (std::int64_t kv_heads : {1, 2, 4})
      for (std::int64_t length : {2, 3, 11}) {
        CAPTURE(importance);
        CAPTURE(kv_heads);
        CAPTURE(length);
        Case c({2, 4, kv_heads, length, 6}, 3, 2, 2);
        c.freeze(importance);
        auto got = c.backward();
        std::size_t i = 0;
        for (Doubles* input : {&c.q, &c.ck, &c.cv, &c.memory})
          CHECK(distance(got[i++], numerical_gradient(*input, [&] { return c.loss(); })) < 1e-5);
      }
  for (std::int64_t dim : {2, 16, 64}) {
    Case c({2, 2, 1, 100, dim}, 1, 4, 4);  // 100 blocks: more than one tile
    c.freeze(true);
    auto got = c.backward();
    std::size_t i = 0;
    for (Doubles* input : {&c.q, &c.ck, &c.cv, &c.memory})
      CHECK(directional_error(*input, got[i++], [&] { return c.loss(); }) < 1e-5);
  }
}

TEST_CASE("compressed attention: same bits again and on two threads; adding; unwanted gradients") {
  Case c({2, 6, 3, 37, 16}, 8, 4, 3);
  c.freeze(true);
  repeatable([&] { return c.forward_values(); });
  auto once = repeatable([&] { return c.backward(); });
  CHECK(once.size() == 4);
  adds_and_skips(once,
                 [&](const std::vector<Floats>* start, int wanted) { return c.backward(start, wanted); });
}

TEST_CASE("compressed attention: a query does not feel blocks that end later, to the bit") {
  Case c({1, 1, 1, 40, 16}, 8, 2, 3);
  auto before = c.forward();
  for (std::int64_t w = 0; w < 5; w++) {
    Case changed = c;
    for (std::size_t e = std::size_t(w * 16); e < 5 * 16; e++) changed.ck[e] = changed.cv[e] = std::nan("");
    auto after = changed.forward();
    auto first = std::ptrdiff_t((w + 1) * 8 - 1);  // the block's last token already sees it
    CHECK(same_bits(Floats(before.out.begin(), before.out.begin() + first * 16),
                    Floats(after.out.begin(), after.out.begin() + first * 16)));
    CHECK(std::equal(before.selected.begin(), before.selected.begin() + first * 3, after.selected.begin()));
    for (std::size_t e = std::size_t(first) * 16; e < 40 * 16; e++) CHECK(std::isnan(after.out[e]));
  }
}
