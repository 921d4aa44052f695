// Attention to selected blocks on a card, where bf16 goes by blocks and fp32 by queries: both against the
// CPU's kernel on the same values (tests/test_attention_selected.cpp holds that to the formula). Picks that
// are scattered, shared by all or by neighbours; lists of many runs; several heads over one key/value head.
#include <algorithm>
#include <random>

#include "kernels/attention.h"
#include "tests/card_case.h"

using namespace engine;
using tests::Doubles;
using tests::Floats;
using tests::kCard;
using tests::no_card;
using tests::rounded;

namespace {

struct Case {
  k::AttentionShape shape;
  std::int64_t block, top;
  Doubles q, k, v, dout, start_q, start_k, start_v;  // start: what gradients are added to
  std::vector<std::int32_t> selected;

  Case(k::AttentionShape s, std::int64_t block, std::int64_t top) : shape(s), block(block), top(top) {
    const auto queries = std::size_t(s.batch * s.heads * s.length * s.dim),
               keys = std::size_t(s.batch * s.kv_heads * s.length * s.dim);
    unsigned seed = 1;
    for (Doubles* x : {&q, &dout, &start_q}) *x = rounded(tests::random_values(queries, seed++));
    for (Doubles* x : {&k, &v, &start_k, &start_v}) *x = rounded(tests::random_values(keys, seed++));
    selected.assign(std::size_t(rows() * top), -1);
    pick(0, seed);
  }
  std::int64_t rows() const { return shape.batch * shape.heads * shape.length; }

  // Draws the picks of the queries from token `first` on among the blocks that have ended: the first head's
  // are scattered, the second's have block 0 always, those of others are of 64 neighbours.
  void pick(std::int64_t first, unsigned seed) {
    for (std::int64_t row = 0; row < rows(); row++) {
      const std::int64_t head = row / shape.length % shape.heads, t = row % shape.length;
      if (t < first) continue;
      const std::int64_t visible = (t + 1) / block;
      std::mt19937 bits(seed + unsigned(head < 2 ? row : row / 64));
      std::vector<std::int32_t> order(static_cast<std::size_t>(visible));
      for (std::size_t w = 0; w < order.size(); w++) order[w] = std::int32_t(w);
      for (std::size_t w = head == 1; w < order.size(); w++)
        std::swap(order[w], order[w + bits() % (order.size() - w)]);
      order.resize(std::size_t(std::min(top, visible)));
      if (row % 5 == 4 && !order.empty()) order.pop_back();
      std::sort(order.begin(), order.end());
      order.resize(std::size_t(top), -1);
      std::copy(order.begin(), order.end(), selected.begin() + row * top);
    }
  }

  // out, lse, dq, dk, dv
  std::vector<Floats> on(Device device, DType dtype, bool add = false) const {
    Stream stream(device);
    Arena arena(device);
    Context context{stream, arena};
    arena.commit();
    const auto filled = [&](const Doubles& x) {
      tests::Guarded memory(device, {std::int64_t(x.size())}, stream, dtype);
      memory.set(x);
      return memory;
    };
    const auto empty = [&](const Doubles& start) {
      return add ? filled(start) : tests::Guarded(device, {std::int64_t(start.size())}, stream, dtype);
    };
    const auto scratch = [&](std::int64_t count, DType type = DType::f32) {
      return tests::Guarded(device, {std::max<std::int64_t>(1, count)}, stream, type);
    };
    const tests::Guarded q_ = filled(q), k_ = filled(k), v_ = filled(v), dout_ = filled(dout);
    const tests::Guarded dq = empty(start_q), dk = empty(start_k), dv = empty(start_v);
    const tests::Guarded out(device, {rows() * shape.dim}, stream, dtype), lse = scratch(rows()),
                                                                           delta = scratch(rows());
    const tests::Guarded lists = scratch(k::selected_lists(shape, block, top)),
                         parts = scratch(k::selected_parts(shape, block, top));
    const Tensor picks =
        Tensor::persistent(device, {std::max<std::int64_t>(1, std::int64_t(selected.size()))}, DType::i32);
    stream.copy(picks.data(), selected.data(), selected.size() * sizeof(std::int32_t));
    const auto scale = float(1 / std::sqrt(double(shape.dim)));
    const auto grad = [&](const tests::Guarded& x) { return k::Grad{x.tensor().data(), dtype, add}; };
    context.launch("selected attention", k::SelectedForward{.out = out.tensor().out(),
                                                            .lse = lse.tensor().f32(),
                                                            .lists = lists.tensor().i32(),
                                                            .parts = parts.tensor().f32(),
                                                            .q = q_.tensor(),
                                                            .k = k_.tensor(),
                                                            .v = v_.tensor(),
                                                            .selected = picks.i32(),
                                                            .shape = shape,
                                                            .block = block,
                                                            .top = top,
                                                            .scale = scale});
    context.launch("selected attention backward", k::SelectedBackward{.dq = grad(dq),
                                                                      .dk = grad(dk),
                                                                      .dv = grad(dv),
                                                                      .d_importance = nullptr,
                                                                      .delta = delta.tensor().f32(),
                                                                      .lists = lists.tensor().i32(),
                                                                      .parts = parts.tensor().f32(),
                                                                      .dout = dout_.tensor(),
                                                                      .out = out.tensor(),
                                                                      .q = q_.tensor(),
                                                                      .k = k_.tensor(),
                                                                      .v = v_.tensor(),
                                                                      .lse = lse.tensor().f32(),
                                                                      .selected = picks.i32(),
                                                                      .shape = shape,
                                                                      .block = block,
                                                                      .top = top,
                                                                      .scale = scale});
    std::vector<Floats> result;
    for (const tests::Guarded* x : {&out, &lse, &dq, &dk, &dv}) result.push_back(x->tensor().to_host(stream));
    for (const tests::Guarded* x : {&out, &lse, &dq, &dk, &dv, &delta, &lists, &parts})
      CHECK(x->bands_intact());
    return result;
  }
};

template <class F> void for_each_case(F f) {
  struct Sizes {
    std::int64_t kv_heads, length, dim, block, top;
  };
  for (const Sizes& s : {Sizes{4, 1, 64, 16, 0}, Sizes{2, 15, 64, 16, 0}, Sizes{4, 17, 64, 16, 1},
                         Sizes{4, 350, 64, 16, 4}, Sizes{2, 350, 64, 16, 4}, Sizes{1, 333, 64, 16, 4},
                         Sizes{1, 320, 32, 16, 16}, Sizes{2, 350, 128, 32, 3}, Sizes{2, 400, 64, 48, 7}}) {
    CAPTURE(s.kv_heads);
    CAPTURE(s.length);
    CAPTURE(s.dim);
    CAPTURE(s.block);
    CAPTURE(s.top);
    f(Case({2, 4, s.kv_heads, s.length, s.dim}, s.block, s.top));
  }
}

}  // namespace

TEST_CASE("selected attention on a card: values and gradients in both types" *
          doctest::skip(no_card("selected attention on a card: values and gradients in both types"))) {
  for_each_case([](const Case& c) {
    const std::vector<Floats> expected = c.on({}, DType::f32), wide = c.on(kCard, DType::f32),
                              got = c.on(kCard, DType::bf16);
    const double bounds[] = {tests::kBf16ForwardBound, 1e-5, tests::kBf16GradientBound,
                             tests::kBf16GradientBound, tests::kBf16GradientBound};
    for (std::size_t i = 0; i < expected.size(); i++) {
      CAPTURE(i);
      if (c.shape.length == 1 && (i == 2 || i == 3)) continue;  // 0 but for rounding
      const Doubles values(expected[i].begin(), expected[i].end());
      CHECK(tests::relative_error(wide[i], values) < 1e-5);
      CHECK(tests::relative_error(got[i], values) < bounds[i]);
    }
    const std::vector<Floats> again = c.on(kCard, DType::bf16), sum = c.on(kCard, DType::bf16, true);
    const Doubles* starts[] = {&c.start_q, &c.start_k, &c.start_v};
    tests::check_again_and_added(got, again, sum, starts);
  });
}

TEST_CASE(
    "selected attention on a card: nothing flows from later tokens, to the bit" *
    doctest::skip(no_card("selected attention on a card: nothing flows from later tokens, to the bit"))) {
  for_each_case([](const Case& c) {
    const std::int64_t length = c.shape.length, last = length / 2;
    const std::vector<Floats> before = c.on(kCard, DType::bf16);
    const auto later = [&](std::size_t row) { return std::int64_t(row) % length > last; };
    Case changed = c;
    for (Doubles* x : {&changed.q, &changed.k, &changed.v, &changed.dout})
      for (std::size_t e = 0; e < x->size(); e++)
        if (later(e / std::size_t(c.shape.dim))) (*x)[e] = -3;
    changed.pick(last + 1, 99);  // who else picks a block does not matter either
    const std::vector<Floats> after = changed.on(kCard, DType::bf16);
    for (std::size_t i : {0, 1, 2})
      for (std::size_t e = 0; e < before[i].size(); e++)
        if (!later(i == 1 ? e : e / std::size_t(c.shape.dim))) REQUIRE(before[i][e] == after[i][e]);
  });
}
