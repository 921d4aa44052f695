#include "tests/formula.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "kernels/types.h"

namespace tests {

double as_bf16(double x) { return double(float(k::bf16(float(x)))); }

Doubles rounded(Doubles x) {
  for (double& value : x) value = as_bf16(value);
  return x;
}

Number::Number(double value, double exact, std::initializer_list<Part> parts) : Number(value, exact) {
  for (const Part& part : parts)
    if (part.of.trace_) trace_ = part.of.trace_;
  if (!trace_) return;
  trace_->append(*this);
  for (const Part& part : parts) trace_->add(part.of, part.derivative);
}

Number operator+(const Number& a, const Number& b) {
  return {a.value_ + b.value_, a.exact_ + b.exact_, {{a, 1}, {b, 1}}};
}
Number operator-(const Number& a, const Number& b) {
  return {a.value_ - b.value_, a.exact_ - b.exact_, {{a, 1}, {b, -1}}};
}
Number operator*(const Number& a, const Number& b) {
  return {a.value_ * b.value_, a.exact_ * b.exact_, {{a, b.value_}, {b, a.value_}}};
}
Number operator/(const Number& a, const Number& b) {
  const double y = a.value_ / b.value_;
  return {y, a.exact_ / b.exact_, {{a, 1 / b.value_}, {b, -y / b.value_}}};
}

Number exp(const Number& x) {
  const double y = std::exp(x.value_);
  return {y, std::exp(x.exact_), {{x, y}}};
}
Number log(const Number& x) { return {std::log(x.value_), std::log(x.exact_), {{x, 1 / x.value_}}}; }
Number sqrt(const Number& x) {
  const double y = std::sqrt(x.value_);
  return {y, std::sqrt(x.exact_), {{x, 0.5 / y}}};
}
Number erfc(const Number& x) {
  const double derivative = -2 * std::numbers::inv_sqrtpi * std::exp(-x.value_ * x.value_);
  return {std::erfc(x.value_), std::erfc(x.exact_), {{x, derivative}}};
}

Number sum(std::span<const Number> x) {
  Number y;
  for (const Number& one : x) {
    y.value_ += one.value_, y.exact_ += one.exact_;
    if (one.trace_) y.trace_ = one.trace_;
  }
  if (!y.trace_) return y;
  y.trace_->append(y);
  for (const Number& one : x) y.trace_->add(one, 1);
  return y;
}

Number dot(std::span<const Number> a, std::span<const Number> b) {
  Number y;
  for (std::size_t i = 0; i < a.size(); i++) {
    y.value_ += a[i].value_ * b[i].value_, y.exact_ += a[i].exact_ * b[i].exact_;
    for (const Number* factor : {&a[i], &b[i]})
      if (factor->trace_) y.trace_ = factor->trace_;
  }
  if (!y.trace_) return y;
  y.trace_->append(y);
  for (std::size_t i = 0; i < a.size(); i++) {
    y.trace_->add(a[i], b[i].value_);
    y.trace_->add(b[i], a[i].value_);
  }
  return y;
}

Number stored(const Number& x) {
  if (!x.trace_ || x.trace_->storage() == Storage::exact) return x;
  const Number y(as_bf16(x.value_), x.exact_, {{x, 1}});
  y.trace_->round_gradient(y);
  return y;
}

Number one_with_slope_of(const Number& x) {
  if (x.trace_) return {1, 1, {{x, 1}}};
  return {1 + (x.value_ - x.exact_), 1};  // slope() moves the value away from the exact one
}

Numbers linear(const Numbers& x, const Numbers& weight, const Numbers* bias, std::size_t rows) {
  const std::size_t in = x.size() / rows, out = weight.size() / in;
  Numbers y;
  for (std::size_t r = 0; r < rows; r++)
    for (std::size_t o = 0; o < out; o++) {
      const Number product = dot({&x[r * in], in}, {&weight[o * in], in});
      y.push_back(stored(bias ? product + (*bias)[o] : product));
    }
  return y;
}

Numbers added(const Numbers& a, const Numbers& b) {
  Numbers y;
  for (std::size_t i = 0; i < a.size(); i++) y.push_back(stored(a[i] + b[i]));
  return y;
}

Number gelu(const Number& x) { return stored(x * 0.5 * erfc(-x / std::numbers::sqrt2)); }

void note_choice(const Number& chosen, const Number& left) {
  if (chosen.trace_) chosen.trace_->note_choice(1 - left.exact_ / chosen.exact_);
}

void Trace::append(Number& x) {
  x.trace_ = this;
  x.place_ = std::uint32_t(begins_.size());
  begins_.push_back(parts_.size());
}

Number Trace::variable(double value) {
  Number x = value;
  append(x);
  return x;
}

Doubles Trace::backward(const Numbers& y, const Doubles& weights) const {
  Doubles gradient(begins_.size(), 0.);
  for (std::size_t i = 0; i < y.size(); i++)
    if (y[i].trace_) gradient[y[i].place_] += weights[i];
  std::size_t end = parts_.size();
  auto rounded = rounded_.rbegin();
  for (std::size_t place = begins_.size(); place-- > 0;) {
    double& own = gradient[place];
    if (rounded != rounded_.rend() && *rounded == place) own = as_bf16(own), ++rounded;
    for (std::size_t i = begins_[place]; i < end; i++) gradient[parts_[i]] += own * derivatives_[i];
    end = begins_[place];
  }
  return gradient;
}

Evaluation::Evaluation(const Formula& formula, const std::vector<Doubles>& at, std::size_t inputs,
                       Storage storage)
    : trace_(storage) {
  std::vector<Numbers> given;
  for (const Doubles& tensor : at) {
    const bool activation = variables_.size() < inputs;
    Numbers& x = variables_.emplace_back();
    for (double value : tensor) x.push_back(trace_.variable(value));
    given.push_back(x);
    if (activation)
      for (Number& one : given.back()) one = stored(one);
  }
  y_ = formula(given);
}

Doubles Evaluation::y() const {
  Doubles values;
  for (const Number& one : y_) values.push_back(one.value());
  return values;
}

std::vector<Doubles> Evaluation::gradients(const Doubles& weights) const {
  const Doubles all = trace_.backward(y_, weights);
  std::vector<Doubles> gradients;
  for (const Numbers& tensor : variables_) {
    Doubles& gradient = gradients.emplace_back();
    for (const Number& x : tensor) gradient.push_back(all[x.place_]);
  }
  return gradients;
}

double Evaluation::slope(const Formula& formula, const std::vector<Doubles>& at,
                         const std::vector<Doubles>& direction, const Doubles& weights) {
  constexpr double kStep = 1e-5;
  double difference = 0;
  for (double step : {kStep, -kStep}) {
    std::vector<Numbers> moved;
    for (std::size_t i = 0; i < at.size(); i++) {
      Numbers& x = moved.emplace_back();
      for (std::size_t e = 0; e < at[i].size(); e++)
        x.push_back(Number(at[i][e] + step * direction[i][e], at[i][e]));
    }
    const Numbers y = formula(moved);
    double total = 0;
    for (std::size_t i = 0; i < y.size(); i++) total += weights[i] * y[i].value();
    difference += step > 0 ? total : -total;
  }
  return difference / (2 * kStep);
}

void Bf16Error::add(const Doubles& exact, const Doubles& formula, const std::vector<float>& got) {
  count_ += exact.size();
  if (got.size() != exact.size()) got_ = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < std::min(got.size(), exact.size()); i++) {
    exact_ += exact[i] * exact[i];
    formula_ += (formula[i] - exact[i]) * (formula[i] - exact[i]);
    got_ += (double(got[i]) - exact[i]) * (double(got[i]) - exact[i]);
  }
}

double Bf16Error::allowed() const { return 2 * of_formula() + 0x1p-9 / std::sqrt(double(count_)); }

double Bf16Error::relative(double square) const { return std::sqrt(square / (exact_ > 0 ? exact_ : 1)); }

}  // namespace tests
