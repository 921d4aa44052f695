#include "kernels/rope.h"

#include "tests/attention_reference.h"

using namespace tests::attention;
using k::Rotation;

namespace {

// Heads of packed rows: q's, k's and v's, which are parts 0, 1 and 2.
struct Case {
  std::int64_t batch, heads, kv_heads, length, dim;
  Floats table;

  Case(std::int64_t kv_heads, std::int64_t length, std::int64_t dim)
      : batch(2), heads(kv_heads == 0 ? 3 : 2 * kv_heads), kv_heads(kv_heads), length(length), dim(dim) {
    Guarded made(length * dim);
    REQUIRE(run(k::Cpu{},
                k::RopeTable{
                    .table = made.data(), .length = length, .dim = dim, .first_position = 0, .base = 10000.f})
                .ok());
    table = made.take();
  }
  std::int64_t columns() const { return heads + 2 * kv_heads; }
  std::int64_t packed() const { return batch * length * columns() * dim; }
  std::int64_t size(int part) const { return batch * (part == 0 ? heads : kv_heads) * length * dim; }

  // All that SplitHeads can give: q, then k, by rotation, then v.
  std::vector<Floats> split(const Floats& x) const {
    std::vector<Guarded> y;
    for (int i = 0; i < 7; i++) y.emplace_back(size(i / 3));
    REQUIRE(run(k::Cpu{}, k::SplitHeads{.q = {y[0].out(), y[1].out(), y[2].out()},
                                        .k = {y[3].out(), y[4].out(), y[5].out()},
                                        .v = y[6].out(),
                                        .x = in(x),
                                        .table = table.data(),
                                        .batch = batch,
                                        .heads = heads,
                                        .kv_heads = kv_heads,
                                        .length = length,
                                        .dim = dim})
                .ok());
    std::vector<Floats> taken;
    for (const Guarded& one : y) taken.push_back(one.take());
    return taken;
  }
  // y: three tensors of q, of k and of v; empty ones are not given.
  Floats merge(const std::vector<Floats>& y, const Floats& start, bool add) const {
    Guarded x(start);
    const auto given = [&](std::size_t i) { return y[i].empty() ? k::In{} : in(y[i]); };
    REQUIRE(run(k::Cpu{}, k::MergeHeads{.x = x.grad(add),
                                        .q = {given(0), given(1), given(2)},
                                        .k = {given(3), given(4), given(5)},
                                        .v = {given(6), given(7), given(8)},
                                        .table = table.data(),
                                        .batch = batch,
                                        .heads = heads,
                                        .kv_heads = kv_heads,
                                        .length = length,
                                        .dim = dim})
                .ok());
    return x.take();
  }

  Doubles formula(const Doubles& x, int part, Rotation rotation) const {  // as complex numbers
    Doubles y;
    const std::int64_t first = part == 0 ? 0 : part == 1 ? heads : heads + kv_heads;
    for (std::int64_t b = 0; b < batch; b++)
      for (std::int64_t h = 0; h < (part == 0 ? heads : kv_heads); h++)
        for (std::int64_t t = 0; t < length; t++) {
          const double* row = &x[std::size_t(((b * length + t) * columns() + first + h) * dim)];
          Doubles turned(row, row + dim);
          for (std::int64_t c = 0; c < dim / 2 && rotation != Rotation::none; c++) {
            std::int64_t u = rotation == Rotation::adjacent ? 2 * c : c;
            std::int64_t v = rotation == Rotation::adjacent ? 2 * c + 1 : c + dim / 2;
            double radius = std::hypot(row[u], row[v]), angle = std::atan2(row[v], row[u]);
            angle += double(t) * std::pow(10000., -2. * double(c) / double(dim));
            turned[std::size_t(u)] = radius * std::cos(angle);
            turned[std::size_t(v)] = radius * std::sin(angle);
          }
          y.insert(y.end(), turned.begin(), turned.end());
        }
    return y;
  }
};

constexpr Rotation kRotations[] = {Rotation::none, Rotation::adjacent, Rotation::halves};

}  // namespace

TEST_CASE("rope table: angles are rounded to fp32 once, then turned exactly") {
  for (std::int64_t first : {0, 4000}) {
    Guarded made(300 * 6);
    REQUIRE(run(k::Cpu{},
                k::RopeTable{
                    .table = made.data(), .length = 300, .dim = 6, .first_position = first, .base = 10000.f})
                .ok());
    Floats table = made.take();
    for (std::int64_t t = 0; t < 300; t++)
      for (std::int64_t c = 0; c < 3; c++) {
        auto frequency = static_cast<float>(std::exp(-double(c) / 3 * std::log(10000.)));
        auto angle = double(static_cast<float>(double(first + t) * double(frequency)));
        CHECK(std::fabs(double(table[std::size_t((t * 3 + c) * 2)]) - std::cos(angle)) < 1e-7);
        CHECK(std::fabs(double(table[std::size_t((t * 3 + c) * 2 + 1)]) - std::sin(angle)) < 1e-7);
      }
  }
}

TEST_CASE("split heads: every head, turned by its position, in each layout of pairs") {
  for (std::int64_t kv_heads : {0, 1, 2})
    for (std::int64_t dim : {2, 6, 16, 64})
      for (std::int64_t length : {1, 3, 17, 65}) {
        Case c(kv_heads, length, dim);
        Doubles x = random_values(5, c.packed());
        const auto y = repeatable([&] { return c.split(to_floats(x)); });
        for (int i = 0; i < 7; i++) {
          CAPTURE(i);
          CHECK(distance(y[std::size_t(i)], c.formula(x, i / 3, kRotations[i % 3])) < 3e-6);
        }
      }
}

TEST_CASE("split heads: writes only what is wanted") {
  Case c(1, 5, 4);
  Doubles x = random_values(9, c.packed());
  Guarded q(c.size(0));
  REQUIRE(run(k::Cpu{}, k::SplitHeads{.q = {{}, q.out(), {}},
                                      .x = in(to_floats(x)),
                                      .table = c.table.data(),
                                      .batch = c.batch,
                                      .heads = c.heads,
                                      .kv_heads = c.kv_heads,
                                      .length = c.length,
                                      .dim = c.dim})
              .ok());
  CHECK(distance(q.take(), c.formula(x, 0, Rotation::adjacent)) < 3e-6);
}

TEST_CASE("turn heads: packed rows with q and k turned, in place or elsewhere") {
  for (std::int64_t kv_heads : {0, 1, 2})
    for (std::int64_t dim : {2, 6, 64})
      for (Rotation rotation : kRotations) {
        const Case c(kv_heads, 17, dim);
        const Doubles x = random_values(7, c.packed());
        Doubles expected(x.size());
        for (int part = 0; part < 3; part++) {
          const Doubles heads = c.formula(x, part, part < 2 ? rotation : Rotation::none);
          const std::int64_t count = part == 0 ? c.heads : kv_heads,
                             first = part == 0 ? 0 : c.heads + (part - 1) * kv_heads;
          for (std::int64_t i = 0; i < c.size(part); i++) {
            const std::int64_t row = i / dim, t = row % c.length, head = row / c.length;
            const std::int64_t at = (head / count * c.length + t) * c.columns() + first + head % count;
            expected[std::size_t(at * dim + i % dim)] = heads[std::size_t(i)];
          }
        }
        const auto turn = [&](k::Out y, k::In from) {
          REQUIRE(run(k::Cpu{}, k::TurnHeads{.y = y,
                                             .x = from,
                                             .rotation = rotation,
                                             .table = c.table.data(),
                                             .batch = c.batch,
                                             .heads = c.heads,
                                             .kv_heads = c.kv_heads,
                                             .length = c.length,
                                             .dim = c.dim})
                      .ok());
        };
        Guarded elsewhere(c.packed()), here(to_floats(x));
        turn(elsewhere.out(), in(to_floats(x)));
        turn(here.out(), {here.data(), k::DType::f32});
        CHECK(distance(elsewhere.take(), expected) < 3e-6);
        CHECK(same_bits(here.take(), elsewhere.take()));
      }
}

TEST_CASE("merge heads: the transpose of split, summed over what is given") {
  for (std::int64_t kv_heads : {0, 1, 2})
    for (std::int64_t dim : {2, 6, 16, 64})
      for (unsigned given : {0777u, 0111u, 0222u, 0444u, 0153u}) {  // of q, k and v: bit r, r + 3, r + 6
        CAPTURE(given);
        Case c(kv_heads, 65, dim);
        Doubles x = random_values(6, c.packed());
        std::vector<Floats> y(9);
        double expected = 0;
        for (int i = 0; i < 9; i++) {
          if (!(given >> i & 1)) continue;
          Doubles one = random_values(std::uint64_t(70 + i), c.size(i / 3));
          y[std::size_t(i)] = to_floats(one);
          expected += inner(c.formula(x, i / 3, i < 6 ? kRotations[i % 3] : Rotation::none), one);
        }
        const Floats poison(x.size(), std::nanf(""));
        const auto merged = repeatable([&] { return std::vector<Floats>{c.merge(y, poison, false)}; })[0];
        double packed = 0;
        for (std::size_t i = 0; i < x.size(); i++) packed += x[i] * double(merged[i]);
        CHECK(std::fabs(packed - expected) < 6e-4);
        CHECK(distance(c.merge(y, to_floats(x), true), sum_of(x, merged)) < 1e-6);
      }
}

TEST_CASE("merge heads: undoes split; without memory it does nothing") {
  Case c(2, 33, 16);
  Doubles x = random_values(8, c.packed());
  const auto y = c.split(to_floats(x));
  for (std::size_t r = 0; r < 3; r++) {
    std::vector<Floats> one(9);
    one[r] = y[r], one[3 + r] = y[3 + r], one[8] = y[6];
    CHECK(distance(c.merge(one, to_floats(x), false), x) < 1e-6);
  }
  CHECK(run(k::Cpu{},
            k::MergeHeads{
                .x = {}, .table = nullptr, .batch = 1, .heads = 1, .kv_heads = 0, .length = 1, .dim = 2})
            .ok());
}
