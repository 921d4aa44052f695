#include "kernels/attention.h"
#include "tests/attention_reference.h"

using namespace tests::attention;

namespace {

struct Case {
  k::AttentionShape shape;
  std::int64_t reach;
  Doubles q, k, v, dout;

  Case(k::AttentionShape s, std::int64_t reach) : shape(s), reach(reach) {
    std::int64_t queries = s.batch * s.heads * s.length * s.dim,
                 keys = s.batch * s.kv_heads * s.length * s.dim;
    q = random_values(1, queries, 2);
    k = random_values(2, keys, 2);
    v = random_values(3, keys);
    dout = random_values(4, queries);
  }

  float scale() const { return static_cast<float>(1 / std::sqrt(double(shape.dim))); }

  std::vector<Doubles> formula() const {  // out, lse
    Doubles out, lse;
    for (std::int64_t row = 0; row < shape.batch * shape.heads * shape.length; row++) {
      std::int64_t i = row % shape.length, h = row / shape.length % shape.heads;
      std::int64_t b = row / shape.length / shape.heads, kv = h * shape.kv_heads / shape.heads;
      std::vector<Key> keys;
      for (std::int64_t j = 0; j <= i; j++) {
        std::int64_t at = ((b * shape.kv_heads + kv) * shape.length + j) * shape.dim;
        if (i - j <= reach) keys.push_back({&k[std::size_t(at)], &v[std::size_t(at)]});
      }
      Attended result = attend(&q[std::size_t(row * shape.dim)], keys, shape.dim, double(scale()));
      out.insert(out.end(), result.out.begin(), result.out.end());
      lse.push_back(result.lse);
    }
    return {out, lse};
  }

  std::vector<Floats> forward() const {
    Guarded out(shape.batch * shape.heads * shape.length * shape.dim),
        lse(shape.batch * shape.heads * shape.length);
    Floats qf = to_floats(q), kf = to_floats(k), vf = to_floats(v);
    REQUIRE(run(k::Cpu{}, k::WindowForward{.out = out.out(),
                                           .lse = lse.data(),
                                           .q = in(qf),
                                           .k = in(kf),
                                           .v = in(vf),
                                           .shape = shape,
                                           .reach = reach,
                                           .scale = scale()})
                .ok());
    return {out.take(), lse.take()};
  }

  // dq, dk, dv; `start`: added to these; `wanted`: the others have no memory
  std::vector<Floats> backward(const std::vector<Floats>* start = nullptr, int wanted = 7) const {
    auto saved = forward();
    Guarded dq = start ? Guarded((*start)[0]) : Guarded(std::int64_t(q.size()));
    Guarded dk = start ? Guarded((*start)[1]) : Guarded(std::int64_t(k.size()));
    Guarded dv = start ? Guarded((*start)[2]) : Guarded(std::int64_t(v.size()));
    Floats qf = to_floats(q), kf = to_floats(k), vf = to_floats(v), df = to_floats(dout);
    bool add = start != nullptr;
    REQUIRE(run(k::Cpu{}, k::WindowBackward{.dq = wanted & 1 ? dq.grad(add) : k::Grad{},
                                            .dk = wanted & 2 ? dk.grad(add) : k::Grad{},
                                            .dv = wanted & 4 ? dv.grad(add) : k::Grad{},
                                            .dout = in(df),
                                            .out = in(saved[0]),
                                            .q = in(qf),
                                            .k = in(kf),
                                            .v = in(vf),
                                            .lse = saved[1].data(),
                                            .shape = shape,
                                            .reach = reach,
                                            .scale = scale()})
                .ok());
    return {dq.take(), dk.take(), dv.take()};
  }

  double loss() const { return inner(formula()[0], dout); }
};

constexpr std::int64_t kDense = std::numeric_limits<std::int64_t>::max();

}  // namespace

TEST_CASE("window attention: values against the formula, odd sizes") {
  for (std::int64_t length : {1, 3, 15, 16, 17, 33, 70, 130})
    for (std::int64_t dim : {2, 6, 16, 64})
      for (std::int64_t reach : {std::int64_t(0), std::int64_t(1), std::int64_t(16), length - 1, kDense}) {
        CAPTURE(length);
        CAPTURE(dim);
        CAPTURE(reach);
        Case c({2, 4, 2, length, dim}, reach);
        auto expected = c.formula();
        auto got = c.forward();
        CHECK(distance(got[0], expected[0]) < 2e-6);
        CHECK(distance(got[1], expected[1]) < 2e-6);
      }
}

TEST_CASE("window attention: gradients against central differences of the formula") {
  for (std::int64_t kv_heads : {1, 2, 4})
    for (std::int64_t reach : {std::int64_t(0), std::int64_t(3), kDense}) {
      Case c({2, 4, kv_heads, 7, 6}, reach);
      auto got = c.backward();
      CHECK(distance(got[0], numerical_gradient(c.q, [&] { return c.loss(); })) < 1e-5);
      CHECK(distance(got[1], numerical_gradient(c.k, [&] { return c.loss(); })) < 1e-5);
      CHECK(distance(got[2], numerical_gradient(c.v, [&] { return c.loss(); })) < 1e-5);
    }
  for (std::int64_t dim : {2, 16, 64})
    for (std::int64_t length : {1, 3, 17, 33, 131}) {
      CAPTURE(dim);
      CAPTURE(length);
      Case c({1, 2, 1, length, dim}, length > 100 ? kDense : 16);
      auto got = c.backward();
      CHECK(directional_error(c.q, got[0], [&] { return c.loss(); }) < 1e-5);
      CHECK(directional_error(c.k, got[1], [&] { return c.loss(); }) < 1e-5);
      CHECK(directional_error(c.v, got[2], [&] { return c.loss(); }) < 1e-5);
    }
}

TEST_CASE("window attention: same bits again and on two threads; adding; unwanted gradients") {
  Case c({2, 6, 3, 37, 16}, 16);
  repeatable([&] { return c.forward(); });
  auto once = repeatable([&] { return c.backward(); });
  Doubles* inputs[] = {&c.q, &c.k, &c.v};
  REQUIRE(once.size() == 3);
  for (std::size_t i = 0; i < 3; i++) CHECK(once[i].size() == inputs[i]->size());
  adds_and_skips(once,
                 [&](const std::vector<Floats>* start, int wanted) { return c.backward(start, wanted); });
}

TEST_CASE("window attention: a query does not feel later tokens, to the bit") {
  for (std::int64_t reach : {std::int64_t(16), kDense}) {
    Case c({1, 2, 1, 70, 16}, reach);
    auto before = c.forward();
    for (std::int64_t token : {1, 16, 17, 69}) {
      Case changed = c;
      for (std::int64_t h = 0; h < 2; h++)
        for (std::size_t e = std::size_t((h * 70 + token) * 16); e < std::size_t((h + 1) * 70 * 16); e++) {
          changed.q[e] = -3;
          if (h == 0) changed.k[e] = changed.v[e] = std::nan("");
        }
      auto after = changed.forward();
      for (std::size_t h = 0; h < 2; h++) {
        auto row = [&](const Floats& x) {
          return Floats(x.begin() + std::ptrdiff_t(h * 70 * 16),
                        x.begin() + std::ptrdiff_t((h * 70 + std::size_t(token)) * 16));
        };
        CHECK(same_bits(row(before[0]), row(after[0])));
      }
      CHECK(std::isnan(after[0][std::size_t(token) * 16]));
    }
  }
}

TEST_CASE("window attention: large logits neither overflow nor lose the row; NaN is not hidden") {
  Case c({1, 1, 1, 100, 2}, kDense);
  for (double& x : c.q) x *= 500;
  for (double& x : c.k) x *= 500;
  auto got = c.forward();
  CHECK(distance(got[0], c.formula()[0]) < 1e-4);  // logits near 1e6 carry a rounding error of 0.06
  for (float x : got[0]) CHECK(std::fabs(x) <= 1.f);
  c.k[0] = std::nan("");
  got = c.forward();
  for (float x : got[0]) CHECK(std::isnan(x));
}

TEST_CASE("window attention: other storage types are refused") {
  Case c({1, 1, 1, 2, 2}, 1);
  Guarded out(4), lse(2);
  Floats x = to_floats(c.q);
  k::WindowForward p{.out = out.out(),
                     .lse = lse.data(),
                     .q = in(x),
                     .k = in(x),
                     .v = in(x),
                     .shape = c.shape,
                     .reach = 1,
                     .scale = 1};
  p.v.t = k::DType::bf16;
  CHECK_FALSE(run(k::Cpu{}, p).ok());
}
