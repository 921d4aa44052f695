// Window attention in bf16 on a card, where tiles of many rows are multiplied at once, against the CPU's fp32
// kernel on the same values (tests/test_attention_window.cpp holds that to the formula): tiles that are
// partial, cut by the window's edge or all inside it; several heads over one key/value head.
#include <algorithm>

#include "kernels/attention.h"
#include "tests/op_case.h"
#include "tests/support.h"

using namespace engine;
using tests::Doubles;

namespace {

using Floats = std::vector<float>;

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
  static Doubles rounded(Doubles x) {
    for (double& value : x) value = double(float(k::bf16(float(value))));
    return x;
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

const Device kCard{DeviceKind::cuda, 0};
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

bool no_card(const char* test) { return tests::lacks(test, cuda_device_count() == 0, "there is no card"); }

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
    for (std::size_t i = 0; i < got.size(); i++) {
      CAPTURE(i);
      CHECK(tests::same_bits(got[i], again[i]));
      if (i < 2) continue;
      Doubles total = *starts[i - 2];
      for (std::size_t e = 0; e < total.size(); e++) total[e] += double(got[i][e]);
      CHECK(tests::relative_error(sum[i], total) < tests::kBf16ForwardBound);
    }
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
