// Products of few rows: against float64, and a row's bits whatever other rows there are.
#include "kernels/rows_linear.h"

#include "engine/ops.h"
#include "tests/card_case.h"

namespace {

using engine::Device;
using engine::DType;
using engine::Shape;
using engine::Tensor;
using tests::Doubles;

struct Case {
  std::int64_t rows, out, in;
  bool norm = false, bias = false, residual = false, gelu = false, wide = false;
};

class Product {
 public:
  Product(const Case& c, Device device, DType dtype) : c_(c), stream_(device), dtype_(dtype) {
    x_ = make({c.rows, c.in}, x), weight_ = make({c.out, c.in}, weight, 1 / std::sqrt(double(c.in)));
    norm_ = make({c.in}, norm), bias_ = make({c.out}, bias), residual_ = make({c.rows, c.out}, residual);
  }
  // The first `rows` rows of the result.
  std::vector<float> run(std::int64_t rows) {
    tests::Guarded y(stream_.device(), {rows, c_.out}, stream_, c_.wide ? DType::f32 : dtype_);
    engine::Arena arena(stream_.device());
    engine::Context context{stream_, arena};
    const Tensor normed = Tensor::persistent(stream_.device(), {rows * (c_.in + 1)}, DType::f32);
    arena.commit();
    const auto in = [](const Tensor& t, bool wanted) { return wanted ? k::In(t) : k::In{}; };
    tests::Guarded second(stream_.device(), {rows, c_.out}, stream_, dtype_);
    const k::RowsProduct product{y.tensor().out(), weight_, in(bias_, c_.bias), c_.out};
    context.launch("rows",
                   k::RowsLinear{.first = product,
                                 .second = {second.tensor().out(), weight_, in(bias_, c_.bias), c_.out},
                                 .x = x_,
                                 .norm = in(norm_, c_.norm),
                                 .residual = in(residual_, c_.residual),
                                 .normed = normed.f32(),
                                 .rows = rows,
                                 .in = c_.in,
                                 .eps = 1e-6f,
                                 .gelu = c_.gelu});
    CHECK(second.bands_intact());
    if (!c_.gelu && !c_.residual && !c_.wide)  // it has neither, and is the same else
      CHECK(tests::same_bits(second.tensor().to_host(stream_), y.tensor().to_host(stream_)));
    auto values = y.tensor().to_host(stream_);
    CHECK(y.bands_intact());
    return values;
  }
  Doubles expected() const {
    Doubles y;
    for (std::int64_t r = 0; r < c_.rows; r++) {
      double square = 0;
      const double* row = x.data() + r * c_.in;
      for (std::int64_t i = 0; i < c_.in; i++) square += row[i] * row[i] / double(c_.in);
      const double scale = 1 / std::sqrt(square + 1e-6);
      for (std::int64_t o = 0; o < c_.out; o++) {
        double sum = c_.bias ? bias[std::size_t(o)] : 0;
        for (std::int64_t i = 0; i < c_.in; i++)
          sum += weight[std::size_t(o * c_.in + i)] * row[i] * (c_.norm ? scale * norm[std::size_t(i)] : 1);
        if (c_.residual) sum += residual[std::size_t(r * c_.out + o)];
        y.push_back(c_.gelu ? sum * 0.5 * std::erfc(-sum / std::sqrt(2.)) : sum);
      }
    }
    return y;
  }

 private:
  Tensor make(Shape shape, Doubles& values, double deviation = 1) {
    values = tests::random_values(std::size_t(shape.numel()), seed_++, 0.1, deviation);
    if (dtype_ == DType::bf16)
      for (double& v : values) v = double(float(k::bf16(float(v))));
    const Tensor t = Tensor::persistent(stream_.device(), shape, dtype_);
    t.from_host(std::vector<float>(values.begin(), values.end()).data(), stream_);
    return t;
  }
  Case c_;
  engine::Stream stream_;
  DType dtype_;
  unsigned seed_ = 1;
  Doubles x, weight, norm, bias, residual;
  Tensor x_, weight_, norm_, bias_, residual_;
};

void check(Device device, DType dtype) {
  for (const Case& c :
       {Case{1, 5, 7}, Case{3, 16, 32, false, true}, Case{9, 33, 96, true, true},
        Case{2, 24, 64, true, true, false, true}, Case{70, 50, 512, true},
        Case{5, 64, 2048, false, true, true}, Case{64, 17, 256, true, false, false, false, true},
        Case{130, 40, 160, false, false, true}, Case{4, 12, 6, true, true, true}}) {
    CAPTURE(c.rows);
    CAPTURE(c.out);
    CAPTURE(c.in);
    Product product(c, device, dtype);
    const auto all = product.run(c.rows);
    CHECK(tests::relative_error(all, product.expected()) <
          (dtype == DType::bf16 ? tests::kBf16ForwardBound : tests::kForwardBound));
    CHECK(tests::same_bits(all, product.run(c.rows)));
    CHECK(tests::same_bits(all, tests::on_threads(1, [&] { return product.run(c.rows); })));
    for (std::int64_t rows : {std::int64_t(1), c.rows / 2, c.rows - 1}) {
      if (rows < 1) continue;
      CAPTURE(rows);
      CHECK(tests::same_bits({all.begin(), all.begin() + rows * c.out}, product.run(rows)));
    }
  }
}

}  // namespace

TEST_CASE("rows linear: the formula, and a row's bits whatever other rows there are") {
  check({}, DType::f32);
  if (engine::cuda_device_count() == 0) return;
  const Device card{engine::DeviceKind::cuda, 0};
  check(card, DType::f32);
  check(card, DType::bf16);
}
