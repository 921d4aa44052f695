#include "kernels/rope.h"

#include "tests/attention_reference.h"

using namespace tests::attention;
using k::Rotation;

namespace {

struct Case {
  std::int64_t batch, heads, length, dim, row_width, first_column;
  Rotation rotation;
  Floats table;

  Case(std::int64_t length, std::int64_t dim, Rotation rotation)
      : batch(2),
        heads(3),
        length(length),
        dim(dim),
        row_width(5 * dim + 3),
        first_column(dim + 1),
        rotation(rotation) {
    Guarded made(length * dim);
    REQUIRE(run(k::Cpu{},
                k::RopeTable{
                    .table = made.data(), .length = length, .dim = dim, .first_position = 0, .base = 10000.f})
                .ok());
    table = made.take();
  }
  std::int64_t packed() const { return batch * length * row_width; }
  std::int64_t split_size() const { return batch * heads * length * dim; }

  Floats split(const Floats& x) const {
    Guarded y(split_size());
    REQUIRE(run(k::Cpu{}, k::SplitHeads{.y = y.out(),
                                        .x = in(x),
                                        .table = table.data(),
                                        .rotation = rotation,
                                        .batch = batch,
                                        .heads = heads,
                                        .length = length,
                                        .dim = dim,
                                        .row_width = row_width,
                                        .first_column = first_column})
                .ok());
    return y.take();
  }
  Floats merge(const Floats& y, const Floats& start, bool add) const {
    Guarded x(start);
    REQUIRE(run(k::Cpu{}, k::MergeHeads{.x = x.grad(add),
                                        .y = in(y),
                                        .table = table.data(),
                                        .rotation = rotation,
                                        .batch = batch,
                                        .heads = heads,
                                        .length = length,
                                        .dim = dim,
                                        .row_width = row_width,
                                        .first_column = first_column})
                .ok());
    return x.take();
  }
  bool ours(std::int64_t element) const {  // of the packed rows
    std::int64_t column = element % row_width - first_column;
    return column >= 0 && column < heads * dim;
  }

  Doubles formula(const Doubles& x) const {  // as complex numbers
    Doubles y;
    for (std::int64_t b = 0; b < batch; b++)
      for (std::int64_t h = 0; h < heads; h++)
        for (std::int64_t t = 0; t < length; t++) {
          const double* row = &x[std::size_t((b * length + t) * row_width + first_column + h * dim)];
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

TEST_CASE("split heads: turns each layout of pairs by its position") {
  for (Rotation rotation : kRotations)
    for (std::int64_t dim : {2, 6, 16, 64})
      for (std::int64_t length : {1, 3, 17, 65}) {
        Case c(length, dim, rotation);
        Doubles x = random_values(5, c.packed());
        auto y = repeatable([&] { return std::vector<Floats>{c.split(to_floats(x))}; })[0];
        CHECK(distance(y, c.formula(x)) < 3e-6);
      }
}

TEST_CASE("merge heads: is the transpose of split, in its own columns only") {
  for (Rotation rotation : kRotations)
    for (std::int64_t dim : {2, 6, 16, 64}) {
      Case c(65, dim, rotation);
      Doubles x = random_values(6, c.packed()), y = random_values(7, c.split_size());
      Floats poison(x.size(), std::nanf(""));
      auto merged = repeatable([&] { return std::vector<Floats>{c.merge(to_floats(y), poison, false)}; })[0];
      double packed = 0;
      for (std::size_t i = 0; i < x.size(); i++) {
        if (c.ours(std::int64_t(i))) packed += x[i] * double(merged[i]);
        else CHECK(std::isnan(merged[i]));
      }
      CHECK(std::fabs(packed - inner(c.formula(x), y)) < 3e-4);

      Floats start = to_floats(x), added = c.merge(to_floats(y), start, true);
      for (std::size_t i = 0; i < x.size(); i++) {
        double expected = x[i] + (c.ours(std::int64_t(i)) ? double(merged[i]) : 0);
        CHECK(std::fabs(double(added[i]) - expected) < 1e-6);
      }
    }
}

TEST_CASE("merge heads: undoes split; without memory it does nothing") {
  Case c(33, 16, Rotation::halves);
  Doubles x = random_values(8, c.packed());
  Floats back = c.merge(c.split(to_floats(x)), to_floats(x), false);
  CHECK(distance(back, x) < 1e-6);
  CHECK(run(k::Cpu{}, k::MergeHeads{.x = {},
                                    .y = {},
                                    .table = nullptr,
                                    .rotation = Rotation::none,
                                    .batch = 1,
                                    .heads = 1,
                                    .length = 1,
                                    .dim = 2,
                                    .row_width = 2,
                                    .first_column = 0})
            .ok());
}
