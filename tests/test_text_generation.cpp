// Text out of a model: what is shown is exactly the text of the tokens drawn.
#include "tools/text_generation.h"

#include <algorithm>

#include "data/byte_bpe.h"
#include "data/utf8.h"
#include "data/wordpiece.h"
#include "engine/error.h"
#include "tests/support.h"

namespace {

using Ids = std::vector<std::int32_t>;

const data::WordPiece& vocabulary() {
  static const data::WordPiece made(
      {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "北", "京", "是", "##北", "##京", "a",  "b",
       "##a",   "##b",   "##1",   "1",     ",",      ".",  "。", "é",  "(",    "%",    "##é"},
      {}, "a test");
  return made;
}

constexpr model::SamplerConfig kSampler{.top_k = 0, .top_p = 1, .min_p = 0, .temperature = 1};

class TextModel {  // random weights: every token is about as likely
 public:
  explicit TextModel(const data::Tokenizer& tokenizer = vocabulary())
      : store_(engine::Device{}, engine::DType::f32), gpt_(config(tokenizer.size()), store_) {
    store_.seal(false);
    store_.initialize(3, stream_);
  }
  model::Generator generator(std::uint64_t seed, std::int32_t banned) {
    return {gpt_, stream_, 1, 100, kSampler, seed, banned};
  }

 private:
  static model::GptConfig config(std::uint32_t tokens) {
    model::GptConfig c;
    c.vocab = tokens, c.layers = 1, c.width = 16, c.ffn = 16;
    c.heads = {.query = 2, .kv = 2, .dim = 8};
    c.nsa = {.block = 4, .select = 2, .window = 4, .memory = 1};
    return c;
  }
  engine::Stream stream_{engine::Device{}};
  engine::ParamStore store_;
  model::Gpt gpt_;
};

// The tokens after `prompt` by the plainest loop; end-of-text, if drawn, is the last.
Ids draw(TextModel& model, std::uint64_t seed, Ids tokens, std::int64_t count, bool ignore) {
  const auto end = std::int32_t(vocabulary().end_of_text());
  const std::size_t prompt = tokens.size();
  auto generator = model.generator(seed, ignore ? end : -1);
  generator.start(tokens);
  for (std::int64_t i = 0; i < count && (tokens.size() == prompt || tokens.back() != end); i++)
    tokens.push_back(generator.draw().front());
  return {tokens.begin() + std::ptrdiff_t(prompt), tokens.end()};
}

std::string decode(const Ids& ids) {
  return vocabulary().decode(std::vector<std::uint32_t>(ids.begin(), ids.end()));
}

struct Text {
  std::vector<std::string> pieces;
  std::string joined;
  std::int64_t drawn = 0;
};
Text generate(TextModel& model, std::uint64_t seed, const Ids& prompt, std::int64_t count, bool ignore,
              const data::Tokenizer& tokenizer = vocabulary()) {
  Text text;
  auto generator = model.generator(seed, ignore ? std::int32_t(tokenizer.end_of_text()) : -1);
  text.drawn = tools::generate_text(generator, tokenizer, {.prompt = prompt, .tokens = count},
                                    [&](std::string_view piece) {
                                      text.pieces.emplace_back(piece);
                                      text.joined += piece;
                                    });
  return text;
}

}  // namespace

TEST_CASE("text: pieces joined are the text that the new tokens add to the prompt's") {
  TextModel model;
  for (const char* given : {"北京是a", "", "b1, (", "京。"}) {
    CAPTURE(given);
    const Ids prompt = tools::prompt_tokens(vocabulary(), given);
    for (std::uint64_t seed = 1; seed <= 10; seed++) {
      CAPTURE(seed);
      const Ids drawn = draw(model, seed, prompt, 40, true);
      const Text text = generate(model, seed, prompt, 40, true);
      CHECK(text.drawn == 40);
      CHECK(std::count(drawn.begin(), drawn.end(), std::int32_t(vocabulary().end_of_text())) == 0);
      Ids whole = prompt;
      whole.insert(whole.end(), drawn.begin(), drawn.end());
      CHECK(decode(prompt) + text.joined == decode(whole));
      CHECK(text.pieces.size() > 5);
      for (const auto& piece : text.pieces) {
        CHECK(!piece.empty());
        CHECK(data::repair_utf8(piece) == piece);
      }
    }
  }
}

TEST_CASE("text: end-of-text ends it and is not shown") {
  TextModel model;
  const Ids prompt = tools::prompt_tokens(vocabulary(), "北京");
  int ended = 0;
  for (std::uint64_t seed = 1; seed <= 20; seed++) {
    CAPTURE(seed);
    Ids drawn = draw(model, seed, prompt, 30, false);
    const Text text = generate(model, seed, prompt, 30, false);
    if (drawn.back() == std::int32_t(vocabulary().end_of_text())) drawn.pop_back(), ended++;
    CHECK(text.drawn == std::int64_t(drawn.size()));
    Ids whole = prompt;
    whole.insert(whole.end(), drawn.begin(), drawn.end());
    CHECK(decode(prompt) + text.joined == decode(whole));
    CHECK(text.joined.find("[SEP]") == std::string::npos);
  }
  CHECK(ended >= 5);
  CHECK(ended < 20);
  const Text none = generate(model, 1, prompt, 0, false);
  CHECK(none.drawn == 0);
  CHECK(none.joined == "");
}

TEST_CASE("text: tokens of a prompt") {
  const auto end = std::int32_t(vocabulary().end_of_text());
  CHECK(tools::prompt_tokens(vocabulary(), "") == Ids{end});
  CHECK(tools::prompt_tokens(vocabulary(), "北京 A") == Ids{5, 6, 10});
  for (const char* nothing : {"  ", "\n", "\x01"}) {
    try {
      tools::prompt_tokens(vocabulary(), nothing);
      CHECK(false);
    } catch (const engine::Error& error) {
      CHECK(error.code == engine::Exit::usage);
    }
  }
}

TEST_CASE("text: bytes that are no UTF-8 are shown as U+FFFD, whole characters at once") {
  const data::ByteBpe bytes({}, "bytes");
  TextModel model(bytes);
  bool replaced = false;
  for (std::uint64_t seed = 1; seed <= 10; seed++) {
    const Ids prompt = tools::prompt_tokens(bytes, "京");
    const Text text = generate(model, seed, prompt, 60, true, bytes);
    auto generator = model.generator(seed, std::int32_t(bytes.end_of_text()));
    generator.start(prompt);
    std::vector<std::uint32_t> drawn;
    for (int i = 0; i < 60; i++) drawn.push_back(std::uint32_t(generator.draw().front()));
    CHECK(text.joined == data::repair_utf8(bytes.decode(drawn)));
    for (const std::string& piece : text.pieces) CHECK(data::is_well_formed(piece));
    replaced |= text.joined.find("\uFFFD") != std::string::npos;
  }
  CHECK(replaced);
}
