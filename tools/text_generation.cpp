#include "tools/text_generation.h"

#include <algorithm>

#include "engine/error.h"
#include "tools/console.h"

namespace tools {

std::vector<std::int32_t> prompt_tokens(const data::Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::uint32_t> ids;
  if (text.empty()) ids.push_back(tokenizer.end_of_text());
  else tokenizer.encode(text, ids);
  engine::require(!ids.empty(), engine::Exit::usage,
                  "the prompt holds nothing that the vocabulary knows; give one with letters or digits");
  return {ids.begin(), ids.end()};
}

Prompt make_prompt(const data::Tokenizer& tokenizer, std::string_view text, const TextRules& rules) {
  Prompt prompt{prompt_tokens(tokenizer, text), std::string(text)};
  if (!rules.decode_urls) return prompt;
  data::PercentDecoder percent;
  prompt.text = percent.push(text);
  prompt.held = percent.finish();  // unfinished, so it comes back as it is
  return prompt;
}

ShownText::ShownText(const data::Tokenizer& tokenizer, const Prompt& prompt, const TextRules& rules)
    : tokenizer_(tokenizer),
      decode_urls_(rules.decode_urls),
      decoder_(tokenizer),
      held_(prompt.held),
      stops_(rules.stops) {
  // The decoder sees the prompt too, so that the first new piece joins it as it would inside a text. What it
  // holds back of the prompt has been shown with the prompt, and is cut from what it returns next.
  std::size_t shown = 0;
  for (std::int32_t id : prompt.tokens) shown += decoder_.push(std::uint32_t(id)).size();
  const std::vector<std::uint32_t> ids(prompt.tokens.begin(), prompt.tokens.end());
  cut_ = tokenizer.decode(ids).size() - shown;
  after_blank_ = tokenizer.words() == data::WordRule::bert && !prompt.text.empty() &&
                 std::string_view(" \t\r\n").find(prompt.text.back()) != std::string_view::npos;
  percent_.push(held_);
}

void ShownText::push(std::int32_t token, std::string& out) {
  if (std::uint32_t(token) == tokenizer_.end_of_text()) return finish(out);
  show(decoder_.push(std::uint32_t(token)), out);
  ended_ |= stops_.stopped();
}

void ShownText::finish(std::string& out) {
  if (ended_) return;
  show(decoder_.finish(), out);
  std::string rest;
  repair_.finish(rest);
  pass(decode_urls_ ? percent_.push(rest) : rest, out);
  pass(percent_.finish(), out);
  stops_.finish(out);
  ended_ = true;
}

void ShownText::show(std::string_view decoded, std::string& out) {
  const std::size_t skip = std::min(cut_, decoded.size());
  cut_ -= skip;
  decoded.remove_prefix(skip);
  if (after_blank_ && !decoded.empty()) {  // the blank between two words is there already
    decoded.remove_prefix(decoded.front() == ' ');
    after_blank_ = false;
  }
  std::string text;
  repair_.push(decoded, text);
  pass(decode_urls_ ? percent_.push(text) : text, out);
}

void ShownText::pass(std::string_view text, std::string& out) {
  const auto of_prompt = std::size_t(std::ranges::mismatch(held_, text).in2 - text.begin());
  out += text.substr(0, of_prompt);
  held_ = of_prompt == text.size() ? held_.substr(of_prompt) : "";
  stops_.push(text.substr(of_prompt), out);
}

void shorten(Prompt& prompt, const model::GptConfig& config, std::int64_t tokens, std::string_view program) {
  const auto size = std::int64_t(prompt.tokens.size());
  if (size < config.context) return;
  const std::int64_t left = tokens < 0 ? 0 : config.context - tokens,
                     kept = std::max({left, config.context / 2, std::int64_t(1)});
  if (kept >= size) return;
  note("{}: the prompt has {} tokens, the model was trained at {}: only its end is read, {} tokens\n",
       program, size, config.context, kept);
  prompt.tokens.erase(prompt.tokens.begin(), prompt.tokens.end() - kept);
}

std::int64_t most_room(const model::GptConfig& config) {
  return std::max<std::int64_t>(config.context, 2);  // a token, and the next
}

std::int64_t text_room(const model::GptConfig& config, std::int64_t prompt, std::int64_t tokens) {
  return std::max(prompt, std::min(prompt + tokens, most_room(config)));
}

std::int64_t kept_end(std::int64_t room) { return std::max<std::int64_t>(room / 2, 1); }

std::uint64_t seed_of_round(std::uint64_t seed, std::int64_t times) {
  return seed + (std::uint64_t(times) << 32);  // far from the seeds of other texts
}

std::int64_t generate_texts(model::Generator& generator, const data::Tokenizer& tokenizer,
                            const TextRequest& request, const EmitText& emit) {
  std::vector<ShownText> texts(request.texts, ShownText(tokenizer, request.prompt, request.rules));
  std::size_t going = texts.size();
  std::int64_t drawn = 0, times_full = 0;
  generator.start(request.prompt.tokens, request.seed);
  for (std::int64_t n = 0; n < request.tokens && going > 0; n++) {
    if (request.poll) request.poll();
    if (generator.length() == generator.capacity())
      generator.keep_end(kept_end(generator.capacity()), seed_of_round(request.seed, ++times_full));
    const std::vector<std::int32_t>& next = generator.draw();
    for (std::size_t i = 0; i < texts.size(); i++) {
      if (texts[i].ended()) continue;
      std::string piece;
      texts[i].push(next[i], piece);
      drawn += std::uint32_t(next[i]) != tokenizer.end_of_text();
      going -= texts[i].ended();
      if (!piece.empty() || texts[i].ended()) emit(i, piece, texts[i].ended());
    }
  }
  for (std::size_t i = 0; i < texts.size(); i++) {
    if (texts[i].ended()) continue;
    std::string piece;
    texts[i].finish(piece);
    emit(i, piece, true);
  }
  return drawn;
}

}  // namespace tools
