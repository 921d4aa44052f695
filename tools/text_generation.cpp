#include "tools/text_generation.h"

#include <algorithm>

#include "data/utf8.h"
#include "engine/error.h"

namespace tools {

std::vector<std::int32_t> prompt_tokens(const data::Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::uint32_t> ids;
  if (text.empty()) ids.push_back(tokenizer.end_of_text());
  else tokenizer.encode(text, ids);
  engine::require(!ids.empty(), engine::Exit::usage,
                  "the prompt holds nothing that the vocabulary knows; give one with letters or digits");
  return {ids.begin(), ids.end()};
}

std::int64_t generate_text(model::Generator& generator, const data::Tokenizer& tokenizer,
                           const TextRequest& request, const std::function<void(std::string_view)>& emit) {
  const auto end_of_text = std::int32_t(tokenizer.end_of_text());
  data::StreamDecoder decoder(tokenizer);
  // The decoder sees the prompt too, so that the first new piece joins it as it would inside a text. What it
  // holds back of the prompt has been shown with the prompt, and is cut from what it returns next.
  std::size_t shown = 0;
  for (std::int32_t id : request.prompt) shown += decoder.push(std::uint32_t(id)).size();
  const std::vector<std::uint32_t> prompt(request.prompt.begin(), request.prompt.end());
  std::size_t cut = tokenizer.decode(prompt).size() - shown;
  data::Utf8Repair repair(false);  // what a byte-level vocabulary draws need not be UTF-8
  std::string well_formed;
  const auto emit_repaired = [&] {
    if (!well_formed.empty()) emit(well_formed);
    well_formed.clear();
  };
  const auto emit_new = [&](std::string_view text) {
    const std::size_t skip = std::min(cut, text.size());
    cut -= skip;
    repair.push(text.substr(skip), well_formed);
    emit_repaired();
  };
  generator.start(request.prompt);
  std::int64_t drawn = 0;
  for (; drawn < request.tokens; drawn++) {
    if (request.poll) request.poll();
    const std::int32_t next = generator.draw().front();
    if (next == end_of_text) break;
    emit_new(decoder.push(std::uint32_t(next)));
  }
  emit_new(decoder.finish());
  repair.finish(well_formed);
  emit_repaired();
  return drawn;
}

}  // namespace tools
