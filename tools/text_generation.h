// Text out of a model: prompt in, pieces of settled text out.
#pragma once
#include <functional>
#include <string>

#include "data/tokenizer.h"
#include "model/generator.h"

namespace tools {

struct TextRequest {
  std::vector<std::int32_t> prompt;  // at least one token
  std::int64_t tokens = 256;         // at most this many new ones
  std::function<void()> poll = {};   // called before each token where it is given; may throw to give up
};

// Starts the generator's one sample and calls `emit` with each piece of settled UTF-8 text that the new
// tokens add, until end-of-text. Returns how many tokens were drawn.
std::int64_t generate_text(model::Generator&, const data::Tokenizer&, const TextRequest&,
                           const std::function<void(std::string_view)>& emit);

// The ids of a prompt; end-of-text alone where it is empty. Throws Error(usage) if the text gives no id at
// all.
std::vector<std::int32_t> prompt_tokens(const data::Tokenizer&, std::string_view text);

}  // namespace tools
