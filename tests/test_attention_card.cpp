// Window attention in bf16 on a card, where tiles of many rows are multiplied at once, against the CPU's fp32
// kernel on the same values (tests/test_attention_window.cpp holds that to the formula): tiles that are
// partial, cut by the window's edge or all inside it; several heads over one key/value head.
#include <algorithm>

#include "kernels/attention.h"
#include "kernels/rope.h"
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
  std::int64_t reach;
  Doubles q, k, v, dout, start_q, start_k, start_v;  // start: what gradients are added to

  Case(k::AttentionShape s, std::int64_t reach) : shape(s), reach(reach) {
    const auto queries = std::size_t(s.batch * s.heads * s.length * s.dim),
               keys = std::size_t(s.batch * s.kv_heads * s.length * s.dim);
    unsigned seed = 1;
    for (Doubles* x : {&q, &dout, &start_q}) *x = rounded(tests::random_values(queries, seed++));
    for (Doubles* x : {&k, &v, &start_k, &start_v}) *x = rounded(tests::random_values(keys, seed++));
  }

  // The heads of packed rows, or of rows of q alone (`parts` 1), from or to head-major tensors: f(row's
  // element, part, that tensor's element).
  template <class F> void for_each_packed(int parts, F f) const {
    const auto [batch, heads, kv_heads, length, dim] = shape;
    const std::int64_t columns = parts == 1 ? heads : heads + 2 * kv_heads;
    for (std::int64_t row = 0; row < batch * length; row++)
      for (std::int64_t column = 0; column < columns; column++) {
        const int part = column < heads ? 0 : column < heads + kv_heads ? 1 : 2;
        const std::int64_t count = part == 0 ? heads : kv_heads,
                           h = column - (part == 0 ? 0 : heads + (part - 1) * kv_heads);
        const std::int64_t from = ((row / length * count + h) * length + row % length) * dim;
        for (std::int64_t d = 0; d < dim; d++)
          f(std::size_t((row * columns + column) * dim + d), part, std::size_t(from + d));
      }
  }

  // The same as on(kCard, DType::bf16), from packed rows. turned: dq and dk are turned back.
  std::vector<Floats> by_tokens(bool turned, bool add = false) const {
    const auto [batch, heads, kv_heads, length, dim] = shape;
    const Device device{DeviceKind::cuda, 0};
    Stream stream(device);
    Arena arena(device);
    Context context{stream, arena};
    arena.commit();
    const std::int64_t rows = batch * length, columns = heads + 2 * kv_heads;
    auto packed = [&](int parts, const Doubles& q, const Doubles& k, const Doubles& v) {
      Doubles x(std::size_t(rows * (parts == 1 ? heads : columns) * dim));
      const Doubles* const from[] = {&q, &k, &v};
      for_each_packed(parts, [&](std::size_t to, int part, std::size_t at) { x[to] = (*from[part])[at]; });
      tests::Guarded memory(device, {std::int64_t(x.size())}, stream, DType::bf16);
      memory.set(x);
      return memory;
    };
    tests::Guarded x = packed(3, q, k, v), dx = packed(3, start_q, start_k, start_v),
                   dy = packed(1, dout, k, v);
    if (!add) dx.poison();
    tests::Guarded y(device, {rows * heads * dim}, stream, DType::bf16), lse(device, {rows * heads}, stream),
        delta(device, {k::window_scratch(shape)}, stream), table(device, {length * dim}, stream);
    const auto scale = float(1 / std::sqrt(double(dim)));
    auto part = [&](const tests::Guarded& of, std::int64_t head) {
      return of.tensor().slice(head * dim, {(rows - 1) * columns * dim + dim});
    };
    auto grad = [&](std::int64_t head) { return k::Grad{part(dx, head).data(), DType::bf16, add}; };
    context.launch("rope table", k::RopeTable{.table = table.tensor().f32(),
                                              .length = length,
                                              .dim = dim,
                                              .first_position = 0,
                                              .base = 10000.f});
    context.launch("window attention", k::WindowForward{.out = y.tensor().out(),
                                                        .lse = lse.tensor().f32(),
                                                        .q = part(x, 0),
                                                        .k = part(x, heads),
                                                        .v = part(x, heads + kv_heads),
                                                        .shape = shape,
                                                        .reach = reach,
                                                        .scale = scale,
                                                        .order = k::Order::tokens});
    context.launch("window attention backward",
                   k::WindowBackward{.dq = grad(0),
                                     .dk = grad(heads),
                                     .dv = grad(heads + kv_heads),
                                     .delta = delta.tensor().f32(),
                                     .dout = dy.tensor(),
                                     .out = y.tensor(),
                                     .q = part(x, 0),
                                     .k = part(x, heads),
                                     .v = part(x, heads + kv_heads),
                                     .lse = lse.tensor().f32(),
                                     .shape = shape,
                                     .reach = reach,
                                     .scale = scale,
                                     .order = k::Order::tokens,
                                     .turned = turned ? table.tensor().f32() : nullptr});
    for (const tests::Guarded* memory : {&x, &dx, &dy, &y, &lse}) CHECK(memory->bands_intact());
    std::vector<Floats> result(5);
    result[1] = lse.tensor().to_host(stream);
    const Floats out = y.tensor().to_host(stream), gradient = dx.tensor().to_host(stream);
    result[0].resize(q.size()), result[2].resize(q.size());
    result[3].resize(k.size()), result[4].resize(k.size());
    for_each_packed(1, [&](std::size_t from, int, std::size_t at) { result[0][at] = out[from]; });
    for_each_packed(3, [&](std::size_t from, int which, std::size_t at) {
      result[std::size_t(2 + which)][at] = gradient[from];
    });
    return result;
  }

  // x [batch, heads, length, dim] turned back by its positions.
  Doubles turned_back(const Floats& x) const {
    Doubles y(x.size());
    for (std::size_t e = 0; e < x.size(); e += 2) {
      const auto i = std::int64_t(e), t = i / shape.dim % shape.length;
      const double angle = double(t) * std::pow(10000., -double(i % shape.dim) / double(shape.dim));
      y[e] = double(x[e]) * std::cos(angle) + double(x[e + 1]) * std::sin(angle);
      y[e + 1] = double(x[e + 1]) * std::cos(angle) - double(x[e]) * std::sin(angle);
    }
    return y;
  }

  // out, lse, dq, dk, dv
  std::vector<Floats> on(Device device, DType dtype, bool add = false) const {
    Stream stream(device);
    Arena arena(device);
    Context context{stream, arena};
    arena.commit();
    auto filled = [&](const Doubles& x) {
      tests::Guarded memory(device, {std::int64_t(x.size())}, stream, dtype);
      memory.set(x);
      return memory;
    };
    auto empty = [&](const Doubles& start) {
      return add ? filled(start) : tests::Guarded(device, {std::int64_t(start.size())}, stream, dtype);
    };
    const std::int64_t rows = shape.batch * shape.heads * shape.length;
    tests::Guarded q_ = filled(q), k_ = filled(k), v_ = filled(v), dout_ = filled(dout);
    tests::Guarded out(device, {rows * shape.dim}, stream, dtype), lse(device, {rows}, stream),
        delta(device, {k::window_scratch(shape)}, stream), dq = empty(start_q), dk = empty(start_k),
                                                           dv = empty(start_v);
    const auto scale = float(1 / std::sqrt(double(shape.dim)));
    auto grad = [&](const tests::Guarded& x) { return k::Grad{x.tensor().data(), dtype, add}; };
    context.launch("window attention", k::WindowForward{.out = out.tensor().out(),
                                                        .lse = lse.tensor().f32(),
                                                        .q = q_.tensor(),
                                                        .k = k_.tensor(),
                                                        .v = v_.tensor(),
                                                        .shape = shape,
                                                        .reach = reach,
                                                        .scale = scale});
    context.launch("window attention backward", k::WindowBackward{.dq = grad(dq),
                                                                  .dk = grad(dk),
                                                                  .dv = grad(dv),
                                                                  .delta = delta.tensor().f32(),
                                                                  .dout = dout_.tensor(),
                                                                  .out = out.tensor(),
                                                                  .q = q_.tensor(),
                                                                  .k = k_.tensor(),
                                                                  .v = v_.tensor(),
                                                                  .lse = lse.tensor().f32(),
                                                                  .shape = shape,
                                                                  .reach = reach,
                                                                  .scale = scale});
    std::vector<Floats> result;
    for (const tests::Guarded* x : {&out, &lse, &dq, &dk, &dv}) {
      CHECK(x->bands_intact());
      result.push_back(x->tensor().to_host(stream));
    }
    return result;
  }
};

constexpr std::int64_t kDense = std::numeric_limits<std::int64_t>::max();

template <class F> void for_each_case(F f) {
  for (std::int64_t dim : {64, 128})
    for (std::int64_t length : {1, 63, 64, 65, 193, 300})
      for (std::int64_t reach : {std::int64_t(64), std::int64_t(100), kDense}) {
        CAPTURE(dim);
        CAPTURE(length);
        CAPTURE(reach);
        f(Case({2, 4, length % 2 ? 1 : 2, length, dim}, reach));
      }
}

// Whether this card's kernels read packed rows.
bool takes_tokens(const k::AttentionShape& shape) {
  if constexpr (has_cuda) {
    const Stream stream(kCard);
    return k::takes_tokens(k::Cuda{.queue = stream.handle()}, shape, DType::bf16);
  } else {
    return false;
  }
}

}  // namespace

TEST_CASE("window attention on a card: values and gradients in bf16" *
          doctest::skip(no_card("window attention on a card: values and gradients in bf16"))) {
  for_each_case([](const Case& c) {
    const std::vector<Floats> expected = c.on({}, DType::f32), got = c.on(kCard, DType::bf16);
    const double bounds[] = {tests::kBf16ForwardBound, 1e-5, tests::kBf16GradientBound,
                             tests::kBf16GradientBound, tests::kBf16GradientBound};
    for (std::size_t i = 0; i < expected.size(); i++) {
      CAPTURE(i);
      if (c.shape.length == 1 && (i == 2 || i == 3)) continue;  // 0 but for rounding
      CHECK(tests::relative_error(got[i], Doubles(expected[i].begin(), expected[i].end())) < bounds[i]);
    }
    const std::vector<Floats> again = c.on(kCard, DType::bf16), sum = c.on(kCard, DType::bf16, true);
    const Doubles* starts[] = {&c.start_q, &c.start_k, &c.start_v};
    tests::check_again_and_added(got, again, sum, starts);
  });
}

TEST_CASE("window attention on a card: nothing flows from later tokens, to the bit" *
          doctest::skip(no_card("window attention on a card: nothing flows from later tokens, to the bit"))) {
  for_each_case([](const Case& c) {
    const auto [batch, heads, kv_heads, length, dim] = c.shape;
    const std::int64_t last = length / 2;
    const std::vector<Floats> before = c.on(kCard, DType::bf16);
    auto later = [&, length = length](std::size_t row) { return std::int64_t(row) % length > last; };
    Case changed = c;
    for (Doubles* x : {&changed.q, &changed.k, &changed.v, &changed.dout})
      for (std::size_t e = 0; e < x->size(); e++)
        if (later(e / std::size_t(dim))) (*x)[e] = -3;
    const std::vector<Floats> after = changed.on(kCard, DType::bf16);
    for (std::size_t i : {0, 1, 2})
      for (std::size_t e = 0; e < before[i].size(); e++)
        if (!later(i == 1 ? e : e / std::size_t(dim))) REQUIRE(before[i][e] == after[i][e]);

    Case silent = c;  // no gradient from later tokens: none for their keys and values
    for (std::size_t e = 0; e < silent.dout.size(); e++)
      if (later(e / std::size_t(dim))) silent.dout[e] = 0;
    const std::vector<Floats> gradients = silent.on(kCard, DType::bf16);
    for (std::size_t i : {3, 4})
      for (std::size_t e = 0; e < gradients[i].size(); e++)
        if (later(e / std::size_t(dim))) REQUIRE(gradients[i][e] == 0);
  });
}

TEST_CASE("window attention on a card: the same bits from packed rows, gradients turned back" *
          doctest::skip(
              no_card("window attention on a card: the same bits from packed rows, gradients turned back"))) {
  for_each_case([](const Case& c) {
    if (!takes_tokens(c.shape)) return;
    const std::vector<Floats> expected = c.on(kCard, DType::bf16), exact = c.on({}, DType::f32);
    for (bool add : {false, true}) {
      const std::vector<Floats> heads = c.on(kCard, DType::bf16, add), rows = c.by_tokens(false, add);
      for (std::size_t i = 0; i < rows.size(); i++) {
        CAPTURE(i);
        CHECK(tests::same_bits(rows[i], heads[i]));
      }
    }
    const std::vector<Floats> turned = c.by_tokens(true), sum = c.by_tokens(true, true);
    for (std::size_t i : {0, 1, 4}) CHECK(tests::same_bits(turned[i], expected[i]));
    const Doubles* starts[] = {&c.start_q, &c.start_k};
    for (std::size_t i : {2, 3}) {
      CAPTURE(i);
      if (c.shape.length > 1)  // else 0 but for rounding
        CHECK(tests::relative_error(turned[i], c.turned_back(exact[i])) < tests::kBf16GradientBound);
      Doubles total = *starts[i - 2];
      for (std::size_t e = 0; e < total.size(); e++) total[e] += double(turned[i][e]);
      CHECK(tests::relative_error(sum[i], total) < tests::kBf16ForwardBound);
    }
  });
}

TEST_CASE("turn heads on a card" * doctest::skip(no_card("turn heads on a card"))) {
  for (DType dtype : {DType::f32, DType::bf16})
    for (auto rotation : {k::Rotation::none, k::Rotation::adjacent, k::Rotation::halves})
      for (std::int64_t dim : {16, 64, 128}) {
        const std::int64_t batch = 2, heads = 3, kv_heads = 2, length = 65,
                           packed = (heads + 2 * kv_heads) * dim;
        const Doubles values = rounded(tests::random_values(std::size_t(batch * length * packed), 4));
        const auto turned = [&](Device device, DType type, bool in_place) {
          Stream stream(device);
          Arena arena(device);
          Context context{stream, arena};
          arena.commit();
          tests::Guarded x(device, {batch * length, packed}, stream, type),
              y(device, {batch * length, packed}, stream, type), table(device, {length * dim}, stream);
          x.set(values);
          context.launch("rope table", k::RopeTable{.table = table.tensor().f32(),
                                                    .length = length,
                                                    .dim = dim,
                                                    .first_position = 0,
                                                    .base = 10000.f});
          const tests::Guarded& to = in_place ? x : y;
          context.launch("turn heads", k::TurnHeads{.y = to.tensor().out(),
                                                    .x = x.tensor(),
                                                    .rotation = rotation,
                                                    .table = table.tensor().f32(),
                                                    .batch = batch,
                                                    .heads = heads,
                                                    .kv_heads = kv_heads,
                                                    .length = length,
                                                    .dim = dim});
          CHECK(to.bands_intact());
          return to.tensor().to_host(stream);
        };
        const Floats expected = turned({}, DType::f32, false), got = turned(kCard, dtype, false);
        CHECK(tests::relative_error(got, Doubles(expected.begin(), expected.end())) <
              (dtype == DType::f32 ? tests::kForwardBound : tests::kBf16ForwardBound));
        CHECK(tests::same_bits(got, turned(kCard, dtype, true)));
      }
}
