// Formulas that are written once and give three things: their exact value, exact gradients, and what a bf16
// computation of the same formula gives.
//
// A formula computes with numbers (class Number) as it would with doubles, and calls stored() wherever a
// plain bf16 implementation holds a tensor: after a matrix product, a softmax, an elementwise op. In between
// it is float64 where such an implementation has fp32.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <span>
#include <vector>

namespace tests {

using Doubles = std::vector<double>;

enum class Storage { exact, bf16 };  // what stored() does: nothing, or round

double as_bf16(double);    // the nearest, ties to even
Doubles rounded(Doubles);  // as bf16 holds them

class Trace;

// A value, the exact value that it stands for, and its place in the trace of the computation. Comparisons are
// those of exact values, so that rounding changes no choice that a formula makes.
class Number {
 public:
  Number(double constant = 0) : value_(constant), exact_(constant) {}
  double value() const { return value_; }
  double exact() const { return exact_; }

  friend Number operator+(const Number& a, const Number& b);
  friend Number operator-(const Number& a, const Number& b);
  friend Number operator*(const Number& a, const Number& b);
  friend Number operator/(const Number& a, const Number& b);
  friend Number operator-(const Number& x) { return 0 - x; }
  friend bool operator<(const Number& a, const Number& b) { return a.exact_ < b.exact_; }
  friend bool operator>(const Number& a, const Number& b) { return a.exact_ > b.exact_; }

  friend Number exp(const Number&);
  friend Number log(const Number&);
  friend Number sqrt(const Number&);
  friend Number erfc(const Number&);
  friend Number sum(std::span<const Number>);
  friend Number dot(std::span<const Number> a, std::span<const Number> b);  // of equal length
  // Held in a tensor: in bf16 the value is rounded, and on the way back the gradient that came together here.
  friend Number stored(const Number&);
  // 1 with the derivative of x: "x + const(1 - x)".
  friend Number one_with_slope_of(const Number& x);
  // Notes that a formula takes `chosen` rather than `left` as it is the larger one.
  friend void note_choice(const Number& chosen, const Number& left);

 private:
  friend class Trace;
  friend class Evaluation;
  struct Part {
    const Number& of;
    double derivative;
  };
  Number(double value, double exact) : value_(value), exact_(exact) {}
  Number(double value, double exact, std::initializer_list<Part>);

  double value_, exact_;
  Trace* trace_ = nullptr;  // null: depends on no variable
  std::uint32_t place_ = 0;
};

Number dot(std::span<const Number> a, std::span<const Number> b);

using Numbers = std::vector<Number>;
using Formula = std::function<Numbers(const std::vector<Numbers>&)>;

// x weight^T + bias [rows, outputs], from x [rows, inputs] and weight [outputs, inputs]; bias may be null.
Numbers linear(const Numbers& x, const Numbers& weight, const Numbers* bias, std::size_t rows);
Numbers added(const Numbers& a, const Numbers& b);
Number gelu(const Number& x);

// A formula's arithmetic in its order: of each number, which numbers it was made of, and its derivative by
// each. Takes 8 bytes a number and 12 a part.
class Trace {
 public:
  explicit Trace(Storage storage) : storage_(storage) {}
  Storage storage() const { return storage_; }
  std::size_t parts() const { return parts_.size(); }
  Number variable(double value);
  // Makes x a number of this trace, to add() its parts to.
  void append(Number& x);
  void add(const Number& part, double derivative) {
    if (!part.trace_) return;
    parts_.push_back(part.place_);
    derivatives_.push_back(derivative);
  }
  void round_gradient(const Number& x) { rounded_.push_back(x.place_); }  // x: the last one
  void note_choice(double gap) { closest_choice_ = std::min(closest_choice_, gap); }
  double closest_choice() const { return closest_choice_; }
  // The derivative of sum weights[i] y[i] by each number.
  Doubles backward(const Numbers& y, const Doubles& weights) const;

 private:
  Storage storage_;
  std::vector<std::size_t> begins_;  // the first part of each number
  std::vector<std::uint32_t> parts_, rounded_;
  Doubles derivatives_;
  double closest_choice_ = std::numeric_limits<double>::infinity();
};

// A formula at a point. The first `inputs` tensors are activations, whose gradients are stored, too;
// gradients of the others, parameters, are not: they add up in fp32.
class Evaluation {
 public:
  Evaluation(const Formula&, const std::vector<Doubles>& at, std::size_t inputs, Storage);
  Evaluation(const Evaluation&) = delete;  // numbers know their trace
  Evaluation& operator=(const Evaluation&) = delete;
  Doubles y() const;
  std::vector<Doubles> gradients(const Doubles& weights) const;  // of sum weights[i] y[i], by each tensor
  std::size_t parts() const { return trace_.parts(); }
  // The least part by which a number that was chosen is larger than one that was left; infinity if there were
  // no choices.
  double closest_choice() const { return trace_.closest_choice(); }
  // The central difference of that sum along a direction, which has a tensor for each of `at`. Choices stay
  // those at the point itself.
  static double slope(const Formula&, const std::vector<Doubles>& at, const std::vector<Doubles>& direction,
                      const Doubles& weights);

 private:
  Trace trace_;
  std::vector<Numbers> variables_;
  Numbers y_;
};

// How far bf16 results are off, in the 2-norm, and how far they may be: twice as far as a bf16 computation of
// the same formula is. With few numbers both are a matter of luck, so add() several draws of a tensor; and as
// the computation may be exact by luck, there may be the error of one number that is rounded once more, about
// 2^-9 of it.
class Bf16Error {
 public:
  void add(const Doubles& exact, const Doubles& formula, const std::vector<float>& got);
  std::size_t count() const { return count_; }  // numbers added
  double got() const { return relative(got_); }
  double of_formula() const { return relative(formula_); }
  double allowed() const;

 private:
  double relative(double square) const;
  double exact_ = 0, formula_ = 0, got_ = 0;  // squares of norms
  std::size_t count_ = 0;
};

}  // namespace tests
