// Generation: token after token from the whole prefix.
#pragma once
#include <memory>
#include <vector>

#include "model/gpt.h"

namespace model {

class Generator {
 public:
  Generator(const Gpt& gpt, engine::Stream& stream) : gpt_(gpt), stream_(stream) {}
  // Logits [vocabulary] of the token that follows `tokens` (at least one, each below the vocabulary).
  const std::vector<float>& logits_after(const std::vector<std::int32_t>& tokens);

 private:
  void reserve(std::int64_t length);

  const Gpt& gpt_;
  engine::Stream& stream_;
  std::unique_ptr<engine::Arena> arena_;  // planned for length_ tokens
  std::int64_t length_ = 0;
  engine::Tensor ids_;
  std::vector<float> logits_;
};

}  // namespace model
