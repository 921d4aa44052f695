// Text out of a model: prompt in, pieces of settled text out.
#pragma once
#include <functional>
#include <string>

#include "data/tokenizer.h"
#include "model/generator.h"
#include "model/sampler.h"

namespace tools {

struct TextRequest {
  std::vector<std::int32_t> prompt;  // at least one token
  std::int64_t tokens = 256;         // at most this many new ones
  bool ignore_end_of_text = false;   // never draw it, instead of stopping there
  std::function<void()> poll = {};   // called before each token where it is given; may throw to give up
};

// Calls `emit` with each piece of settled UTF-8 text that the new tokens add. Returns how many tokens were
// drawn.
std::int64_t generate_text(model::Generator&, model::Sampler&, const data::Tokenizer&, const TextRequest&,
                           const std::function<void(std::string_view)>& emit);

// The ids of a prompt; end-of-text alone where it is empty. Throws Error(usage) if the text gives no id at
// all.
std::vector<std::int32_t> prompt_tokens(const data::Tokenizer&, std::string_view text);

}  // namespace tools
