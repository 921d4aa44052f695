#include "kernels/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/philox.h"
#include "kernels/vector_math.h"

namespace k {
namespace {

class Row {
 public:
  Row(const Sample& p, std::int64_t row)
      : rule_(p.rule),
        logits_(p.logits + row * p.stride),
        order_(p.order + row * p.vocab),
        vocab_(p.vocab),
        position_(p.positions[row] + 1),
        history_(p.tokens + row * p.capacity),
        seed_(p.rule.seed + std::uint64_t(row)) {}

  std::int32_t first_bad() const {  // -1: none
    for (std::int64_t i = 0; i < vocab_; i++)
      if (!(logits_[i] < std::numeric_limits<float>::infinity())) return std::int32_t(i);
    return -1;
  }

  std::int32_t draw() {
    penalize();
    count_ = 0;
    for (std::int32_t i = 0; i < vocab_; i++)
      if (i != rule_.banned) order_[count_++] = i;
    if (rule_.temperature <= 0) {
      keep_largest(1);
      return order_[0];
    }
    if (rule_.keep > 0) keep_largest(rule_.keep);
    if (rule_.top_p < 1 || rule_.min_p > 0) keep_probable();
    return largest_with_noise();
  }

 private:
  bool before(std::int32_t a, std::int32_t b) const {
    return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;
  }

  void penalize() {  // each token once; `order_` marks those done
    if (rule_.repeat_penalty == 1) return;
    std::fill_n(order_, vocab_, 0);
    for (std::int64_t i = std::max<std::int64_t>(0, position_ - rule_.repeat_last); i < position_; i++) {
      const std::int32_t token = history_[i];
      if (order_[token]++ > 0) continue;
      float& logit = logits_[token];
      logit = float(logit > 0 ? logit / rule_.repeat_penalty : logit * rule_.repeat_penalty);
    }
  }

  void keep_largest(std::int64_t count) {
    if (count >= count_) return;
    std::nth_element(order_, order_ + count - 1, order_ + count_,
                     [this](std::int32_t a, std::int32_t b) { return before(a, b); });
    count_ = count;
  }

  void keep_probable() {
    std::sort(order_, order_ + count_, [this](std::int32_t a, std::int32_t b) { return before(a, b); });
    const float top = logits_[order_[0]];
    const auto weight = [&](std::int64_t i) {
      return std::uint64_t(exp_f32(logits_[order_[i]] - top) * 0x1p40f);
    };
    if (rule_.top_p < 1) {
      std::uint64_t total = 0, sum = 0;
      for (std::int64_t i = 0; i < count_; i++) total += weight(i);
      const auto target = std::uint64_t(std::ceil(rule_.top_p * double(total)));
      for (std::int64_t i = 0; i < count_; i++) {
        sum += weight(i);
        if (sum >= target) count_ = i + 1;
      }
    }
    if (rule_.min_p > 0) {
      const double least = double(top) + std::log(rule_.min_p);
      while (count_ > 1 && double(logits_[order_[count_ - 1]]) < least) count_--;
    }
  }

  std::int32_t largest_with_noise() const {
    double best = -std::numeric_limits<double>::infinity();
    std::int32_t chosen = order_[0];
    for (std::int64_t i = 0; i < count_; i++) {
      const std::int32_t token = order_[i];
      const double score = double(logits_[token]) / rule_.temperature +
                           gumbel(seed_, std::uint64_t(position_), std::uint64_t(token));
      if (score > best || (score == best && token < chosen)) best = score, chosen = token;
    }
    return chosen;
  }

  const SampleRule& rule_;
  float* logits_;
  std::int32_t* order_;  // the candidates, [count_]
  std::int64_t vocab_, count_ = 0, position_;
  const std::int32_t* history_;
  std::uint64_t seed_;
};

}  // namespace

Cost cost(const Sample& p) {
  const double n = double(p.rows) * double(p.vocab);
  return {n, 4 * n};
}

Status run(Cpu, const Sample& p) noexcept {
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < p.rows; r++) {
    Row row(p, r);
    const std::int32_t bad = row.first_bad(), token = bad < 0 ? row.draw() : 0;
    p.drawn[r] = token, p.drawn[p.rows + r] = bad;
    p.tokens[r * p.capacity + ++p.positions[r]] = token;
  }
  return {};
}

}  // namespace k
