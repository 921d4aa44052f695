// Text out of a model: prompt in, pieces of settled text out.
#pragma once
#include <functional>
#include <string>

#include "data/percent.h"
#include "data/tokenizer.h"
#include "data/utf8.h"
#include "model/generator.h"
#include "tools/stop_strings.h"

namespace tools {

struct TextRules {
  std::vector<std::string> stops = {};  // a text ends before the first of these, as it is shown
  bool decode_urls = false;             // percent escapes are shown as what they stand for
};

struct Prompt {
  std::vector<std::int32_t> tokens;  // at least one
  std::string text = {};             // what is shown of it
  // A percent escape that its last bytes begin: shown with what follows, which may be the escape's end.
  std::string held = {};
};

// The ids of a prompt; end-of-text alone where it is empty. Throws Error(usage) if the text gives no id at
// all.
std::vector<std::int32_t> prompt_tokens(const data::Tokenizer&, std::string_view text);
Prompt make_prompt(const data::Tokenizer&, std::string_view text, const TextRules& = {});

// What may be shown of one text while its tokens come. All pieces are UTF-8, and joined they do not depend on
// how the text is cut into tokens.
class ShownText {
 public:
  ShownText(const data::Tokenizer&, const Prompt&, const TextRules&);
  // Appends to `out` what the next token of the text settles. At end-of-text and at a stop text it is
  // ended().
  void push(std::int32_t token, std::string& out);
  void finish(std::string& out);  // ends it here: appends all that was held back
  bool ended() const noexcept { return ended_; }

 private:
  void show(std::string_view decoded, std::string& out);
  void pass(std::string_view text, std::string& out);

  const data::Tokenizer& tokenizer_;
  bool decode_urls_, ended_ = false;
  data::StreamDecoder decoder_;
  std::size_t cut_ = 0;       // bytes of the prompt that the decoder has yet to return
  bool after_blank_ = false;  // nothing new was shown yet, and the prompt ends in a blank without a token
  data::Utf8Repair repair_{false};  // what a byte-level vocabulary draws need not be UTF-8
  data::PercentDecoder percent_;
  std::string held_;  // of the prompt's: no stop text is looked for there
  StopStrings stops_;
};

// A prompt that fills the model's context keeps its end, so that what is asked for last is seen: as much as
// leaves room for the `tokens` to be drawn (-1: as many as there is room for), but half of the context at
// least. Then stderr says so, in the name of `program`.
void shorten(Prompt&, const model::GptConfig&, std::int64_t tokens, std::string_view program);

// What a text has room for: the trained length.
std::int64_t most_room(const model::GptConfig&);
// The same for one that begins with so many tokens and gets at most `tokens` more.
std::int64_t text_room(const model::GptConfig&, std::int64_t prompt, std::int64_t tokens);
// What a text goes on with when its room is full: its last half.
std::int64_t kept_end(std::int64_t room);
// The seed after a text's end was kept `times` times. Draws are keyed by seed and place, and places come
// again; with the same seed a text could go round in circles.
std::uint64_t seed_of_round(std::uint64_t seed, std::int64_t times);

struct TextRequest {
  Prompt prompt;
  std::int64_t tokens = 256;  // at most this many new ones a text
  std::uint64_t seed = 0;     // text i draws under `seed` + i
  std::size_t texts = 1;      // the generator's samples
  TextRules rules = {};
  std::function<void()> poll = {};  // called before each token where it is given; may throw to give up
};

// Takes what a text goes on with; `last` once for each text, with its last piece, which may be empty.
using EmitText = std::function<void(std::size_t text, std::string_view piece, bool last)>;

// Starts the generator's samples and emits what the new tokens add to each, piece by piece, until all have
// ended. Texts that fill the generator's room go on from their ends. Returns how many tokens they have
// together, end-of-text not counted.
std::int64_t generate_texts(model::Generator&, const data::Tokenizer&, const TextRequest&, const EmitText&);

}  // namespace tools
