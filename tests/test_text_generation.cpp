// Text out of a model: what is shown is exactly the text of the tokens drawn.
#include "tools/text_generation.h"

#include <algorithm>
#include <random>

#include "data/byte_bpe.h"
#include "data/percent.h"
#include "data/utf8.h"
#include "data/wordpiece.h"
#include "engine/error.h"
#include "tests/support.h"
#include "tools/texts_in_order.h"

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
  model::Generator generator(std::int32_t banned, std::int64_t samples = 1, std::int64_t capacity = 100) {
    return {gpt_, stream_, samples, capacity, kSampler, banned};
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
  auto generator = model.generator(ignore ? end : -1);
  generator.start(tokens, seed);
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
              const data::Tokenizer& tokenizer = vocabulary(), const tools::TextRules& rules = {}) {
  Text text;
  int ends = 0;
  auto generator = model.generator(ignore ? std::int32_t(tokenizer.end_of_text()) : -1);
  text.drawn = tools::generate_texts(
      generator, tokenizer, {.prompt = {.tokens = prompt}, .tokens = count, .seed = seed, .rules = rules},
      [&](std::size_t i, std::string_view piece, bool last) {
        CHECK(i == 0);
        CHECK(ends == 0);
        ends += last;
        if (last && piece.empty()) return;
        text.pieces.emplace_back(piece);
        text.joined += piece;
      });
  CHECK(ends == 1);
  return text;
}

// What is shown of a text whose tokens are its bytes.
const data::ByteBpe& byte_vocabulary() {
  static const data::ByteBpe made({}, "bytes");
  return made;
}
std::string shown(std::string_view prompt, std::string_view text, const tools::TextRules& rules) {
  const tools::Prompt given = tools::make_prompt(byte_vocabulary(), prompt, rules);
  tools::ShownText stream(byte_vocabulary(), given, rules);
  std::string all = given.text;
  std::vector<std::uint32_t> ids;
  byte_vocabulary().encode(text, ids);
  for (std::uint32_t id : ids) {
    if (stream.ended()) break;
    std::string piece;
    stream.push(std::int32_t(id), piece);
    CHECK(data::is_well_formed(piece));
    all += piece;
  }
  std::string rest;
  stream.finish(rest);
  CHECK(data::is_well_formed(rest));
  return all + rest;
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

TEST_CASE("text: a blank at the prompt's end is the one before the next word") {
  const auto shown = [](const std::string& given, const std::string& next) {
    const tools::Prompt prompt = tools::make_prompt(vocabulary(), given);
    tools::ShownText stream(vocabulary(), prompt, {});
    std::string text = prompt.text;
    for (std::int32_t id : tools::prompt_tokens(vocabulary(), next)) stream.push(id, text);
    stream.finish(text);
    return text;
  };
  CHECK(shown("a", "b a 北") == "a b a北");
  CHECK(shown("a ", "b a 北") == "a b a北");
  CHECK(shown("a\n", "b") == "a\nb");
  CHECK(shown("a  ", "b") == "a  b");
  CHECK(shown("a ", "北 b") == "a 北b");
  CHECK(shown("北 ", "b a") == "北 b a");
  // Of byte-level BPE every blank is a token's.
  tools::ShownText bytes(byte_vocabulary(), tools::make_prompt(byte_vocabulary(), "a "), {});
  std::string text;
  for (std::int32_t id : tools::prompt_tokens(byte_vocabulary(), " b")) bytes.push(id, text);
  bytes.finish(text);
  CHECK(text == " b");
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
    auto generator = model.generator(std::int32_t(bytes.end_of_text()));
    generator.start(prompt, seed);
    std::vector<std::uint32_t> drawn;
    for (int i = 0; i < 60; i++) drawn.push_back(std::uint32_t(generator.draw().front()));
    CHECK(text.joined == data::repair_utf8(bytes.decode(drawn)));
    for (const std::string& piece : text.pieces) CHECK(data::is_well_formed(piece));
    replaced |= text.joined.find("\uFFFD") != std::string::npos;
  }
  CHECK(replaced);
}

TEST_CASE("text: side by side, each is what it is alone, whenever the others end") {
  TextModel model;
  const tools::TextRules rules{.stops = {"北京", "b,"}};
  const Ids prompt = tools::prompt_tokens(vocabulary(), "京是");
  for (std::uint64_t seed : {1, 11, 21}) {
    std::vector<std::string> joined(6);
    std::vector<int> ends(6);
    auto generator = model.generator(-1, 6);
    const std::int64_t drawn = tools::generate_texts(
        generator, vocabulary(),
        {.prompt = {.tokens = prompt}, .tokens = 30, .seed = seed, .texts = 6, .rules = rules},
        [&](std::size_t i, std::string_view piece, bool last) { joined[i] += piece, ends[i] += last; });
    std::int64_t alone = 0;
    for (std::size_t i = 0; i < 6; i++) {
      const Text text = generate(model, seed + i, prompt, 30, false, vocabulary(), rules);
      CHECK(joined[i] == text.joined);
      CHECK(ends[i] == 1);
      alone += text.drawn;
    }
    CHECK(drawn == alone);
  }
}

TEST_CASE("text: longer than its room, it goes on from its last half, each side by side as alone") {
  TextModel model;
  constexpr std::int64_t kRoom = 12, kTokens = 40;
  constexpr std::size_t kTexts = 3;
  const auto end = std::int32_t(vocabulary().end_of_text());
  const Ids prompt = tools::prompt_tokens(vocabulary(), "京是a");
  for (std::uint64_t seed = 1; seed <= 5; seed++) {
    std::vector<std::string> joined(kTexts);
    auto generator = model.generator(end, kTexts, kRoom);
    tools::generate_texts(generator, vocabulary(),
                          {.prompt = {.tokens = prompt}, .tokens = kTokens, .seed = seed, .texts = kTexts},
                          [&](std::size_t i, std::string_view piece, bool) { joined[i] += piece; });
    for (std::size_t i = 0; i < kTexts; i++) {
      Ids held = prompt, whole = prompt;
      std::uint64_t now = seed + i;
      for (std::int64_t drawn = 0; drawn < kTokens;) {
        auto alone = model.generator(end);
        alone.start(held, now);
        for (; drawn < kTokens && std::int64_t(held.size()) < kRoom; drawn++) {
          held.push_back(alone.draw().front());
          whole.push_back(held.back());
        }
        held.erase(held.begin(), held.end() - kRoom / 2);
        now += std::uint64_t(1) << 32;
      }
      CHECK(decode(prompt) + joined[i] == decode(whole));
    }
  }
}

TEST_CASE("text: room is the trained length, and two at least") {
  model::GptConfig config;
  config.context = 40;
  CHECK(tools::text_room(config, 10, 20) == 30);
  CHECK(tools::text_room(config, 10, 30) == 40);
  CHECK(tools::text_room(config, 10, std::int64_t(1) << 30) == 40);
  CHECK(tools::text_room(config, 40, 0) == 40);
  config.context = 1;
  CHECK(tools::text_room(config, 1, 9) == 2);
  CHECK(tools::kept_end(2) == 1);
}

TEST_CASE("text: a stop text ends it as it would end the whole") {
  TextModel model;
  const Ids prompt = tools::prompt_tokens(vocabulary(), "是a");
  int stopped = 0;
  for (std::uint64_t seed = 1; seed <= 10; seed++) {
    const Text whole = generate(model, seed, prompt, 40, true);
    for (const char* stop : {"北", "京是", "b1", "a", " "}) {
      const Text text = generate(model, seed, prompt, 40, true, vocabulary(), {.stops = {stop}});
      CHECK(text.joined == whole.joined.substr(0, whole.joined.find(stop)));
      if (whole.joined.find(stop) == whole.joined.npos) continue;
      stopped++;
      CHECK(text.drawn <= whole.drawn);
    }
  }
  CHECK(stopped >= 20);
}

TEST_CASE("text: percent escapes and stop texts, through the prompt's end") {
  CHECK(shown("", "%E6%95%B0%e5%ad%a6", {.decode_urls = true}) == "数学");
  CHECK(shown("%E6%95", "%B0%E5%AD", {.decode_urls = true}) == "数%E5%AD");
  CHECK(shown("100%", "的%", {.stops = {"%"}, .decode_urls = true}) == "100%的");
  CHECK(shown("100%4", "", {.stops = {"%"}, .decode_urls = true}) == "100%4");
  CHECK(shown("100%4", "1b", {.stops = {"b"}, .decode_urls = true}) == "100A");
  CHECK(shown("数", "一数二", {.stops = {"数"}}) == "数一");
  CHECK(shown("%E6", "%95%B0数", {.stops = {"学"}}) == "%E6%95%B0数");
  std::mt19937 bits(2);
  const auto below = [&bits](unsigned n) { return bits() % n; };
  const auto random_text = [&](unsigned most, bool hostile) {
    static const char* const kParts[] = {"%E6", "%95", "%B0", "%", "%4",  "1",    "数",
                                         "a",   "%F0", "%9F", "%", "%zz", "\xe6", "\x95"};
    std::string text;
    for (unsigned i = below(most); i > 0; i--) text += kParts[below(hostile ? 14 : 12)];
    return text;
  };
  int stopped = 0;
  for (int round = 0; round < 3000; round++) {
    const std::string prompt = random_text(5, false), text = random_text(12, true);
    CAPTURE(prompt);
    CAPTURE(text);
    const std::string repaired = data::repair_utf8(text);
    CHECK(shown(prompt, text, {}) == prompt + repaired);
    const std::string whole = data::percent_decode(prompt + repaired);
    tools::TextRules rules{.decode_urls = true};
    CHECK(shown(prompt, text, rules) == whole);
    rules.stops = {round % 2 == 0 ? "数" : "%"};
    const tools::Prompt given = tools::make_prompt(byte_vocabulary(), prompt, rules);
    std::size_t begin = given.text.size();  // of what is new
    for (std::size_t i = 0; i < given.held.size() && begin < whole.size() && whole[begin] == given.held[i];
         i++)
      begin++;
    const std::size_t stop = whole.find(rules.stops[0], begin);
    CHECK(shown(prompt, text, rules) == whole.substr(0, stop));
    stopped += stop != whole.npos;
  }
  CHECK(stopped > 300);
}

TEST_CASE("text: several are written in order, the first as it grows") {
  std::mt19937 bits(3);
  for (int round = 0; round < 200; round++) {
    const bool streamed = round % 2 == 0;
    std::vector<std::string> parts(5);
    std::vector<bool> ended(5);
    std::string written;
    tools::TextsInOrder texts("p", streamed, [&](std::string_view text) { written += text; });
    const auto expected = [&] {
      std::string all;
      for (std::size_t i = 0; i < parts.size(); i++) {
        const bool begun = i == 0 || streamed;
        if (!ended[i] && !streamed) return all;
        if (begun || ended[i]) all += (i > 0 ? "---\np" : "p") + parts[i];
        if (!ended[i]) return all;
        all += "\n";
      }
      return all;
    };
    for (std::size_t i = 0; i < parts.size(); i++) texts.add(i, "", false);
    while (std::ranges::count(ended, false) > 0) {
      const std::size_t i = bits() % parts.size();
      if (ended[i]) continue;
      const std::string piece(bits() % 3, char('a' + i));
      ended[i] = bits() % 4 == 0;
      parts[i] += piece;
      texts.add(i, piece, ended[i]);
      CHECK(written == expected());
      CHECK(texts.inside_line() == (streamed && std::ranges::count(ended, false) > 0));
    }
  }
}
