// How well a model predicts a text, by the forward pass of training and by the generator's cache.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "engine/checkpoint.h"
#include "model/gpt.h"

namespace tools {

// What is scored. Token 0 has no prediction: of `size` tokens, size - 1 are targets.
struct ScoredText {
  std::int64_t size = 0;
  double bytes = 0;       // of UTF-8 text that the targets stand for
  std::string part = {};  // of a token file: what of it this is
  std::function<void(std::int64_t from, std::span<std::int32_t> ids)> read;
};
// A token file (told by its content), of which the validation part counts where there is one; else a text
// file or "-", with end-of-text before its first token. Throws Error(data), and Error(checkpoint) for a token
// file of another vocabulary.
ScoredText open_scored(const std::string& file, const data::Tokenizer&, const engine::Checkpoint&);

struct Perplexity {
  double loss = 0;  // nats a target
  std::int64_t targets = 0;
  std::int64_t checked = 0;       // the first so many targets were predicted by the cache, too:
  double forward_loss = 0;        // their loss by the forward pass
  double cache_loss = 0;          // and by the cache
  double largest_difference = 0;  // of a target
};
// Windows of the length that the model is trained at, as in an evaluation: window w predicts the tokens from
// w * length + 1 on, the last may be short. At most `most_checked` targets are predicted by the cache. `poll`
// is called often and may throw. Throws Error(diverged) if a loss is not finite.
Perplexity measure(const model::Gpt&, engine::Stream&, const ScoredText&, std::int64_t most_checked,
                   const std::function<void()>& poll);

// "ppl 67.4 | loss 4.2100 | bpb 1.2340 | tokens 12,345 | by the cache: ..."
std::string to_line(const Perplexity&, double bytes);

}  // namespace tools
