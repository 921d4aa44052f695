#include "data/live_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>

#include "data/id_ranges.h"
#include "data/sha256.h"
#include "data/utf8.h"
#include "engine/error.h"

namespace data {
namespace {

using engine::Exit;
using engine::fail;
using engine::require;

constexpr std::string_view kHeading = "live";
constexpr std::string_view kContinues = "##";

// What split_words() calls: whether all of a text comes out as one word, or as one token that is none.
struct Unchanged {
  std::string_view text;
  std::size_t parts = 0;
  bool is_word = false, is_token = false;

  void word(const Word& word) {
    ++parts;
    is_word = word.text() == text;
  }
  void token(std::uint32_t character, std::string_view) {
    ++parts;
    std::string spelling;
    append_utf8(spelling, static_cast<char32_t>(character));
    is_token = spelling == text;
  }
  void special(std::string_view) { ++parts; }
  void dropped(std::size_t) {}
};

// What comes out of texts by the rules of BERT. Whatever they make of a character they would leave as it is.
class PossibleText {
 public:
  explicit PossibleText(BertRules rules)
      : actions_(make_actions(rules, [](char32_t c) { return static_cast<std::uint32_t>(c); })) {}

  // Han, or a punctuation mark.
  bool is_token(std::string_view text) const {
    Unchanged sink{text};
    split_words(actions_, text, sink);
    return sink.parts == 1 && sink.is_token;
  }

  // A run of at most `most` characters that each may stand in a word, whatever is around it.
  bool is_word(std::string_view text, std::size_t most) const {
    std::size_t characters = 0;
    for (const char* at = text.data(); at != text.data() + text.size(); ++characters) {
      if (characters == most) return false;
      std::string inside = "a";
      append_utf8(inside, next_code_point(at));
      Unchanged sink{inside};
      split_words(actions_, inside, sink);
      if (sink.parts != 1 || !sink.is_word) return false;
    }
    return characters > 0;
  }

 private:
  ActionTable actions_;
};

}  // namespace

// A token that is possible text comes out of itself, since it is the longest that itself begins with. "##x"
// comes out behind a token that begins words and that no longer one begins with: there is such a one if there
// is any that begins words. Special words are pieces like others where the vocabulary lacks them.
std::vector<std::uint32_t> live_ids(const WordPiece& vocabulary) {
  const PossibleText possible(vocabulary.rules());
  std::vector<std::uint32_t> live, inside;
  bool words_begin = false;
  for (std::uint32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view token = vocabulary.piece(id);
    if (token.starts_with(kContinues) && token.size() > kContinues.size()) {
      if (possible.is_word(token.substr(kContinues.size()), kMaxWordCharacters - 1)) inside.push_back(id);
      continue;
    }
    const bool is_word = possible.is_word(token, kMaxWordCharacters);
    const bool is_special = std::ranges::find(kSpecialWords, token) != kSpecialWords.end();
    if (is_word || is_special || possible.is_token(token)) live.push_back(id);
    words_begin |= is_word;
  }
  if (words_begin) live.insert(live.end(), inside.begin(), inside.end());
  for (const std::string_view name : kSpecialWords) vocabulary.encode(name, live);
  std::ranges::sort(live);
  live.erase(std::unique(live.begin(), live.end()), live.end());
  return live;
}

LiveVocabulary::LiveVocabulary(std::unique_ptr<const WordPiece> whole, std::vector<std::uint32_t> live,
                               const std::string& where)
    : whole_(std::move(whole)), live_(std::move(live)) {
  const auto number_of = [&](std::uint32_t id) {
    const auto place = std::ranges::lower_bound(live_, id);
    require(place != live_.end() && *place == id, Exit::checkpoint,
            "{}: the live tokens lack {}; the file is damaged", where, whole_->piece(id));
    return static_cast<std::uint32_t>(place - live_.begin());
  };
  require(std::ranges::adjacent_find(live_, std::ranges::greater_equal{}) == live_.end() &&
              (live_.empty() || live_.back() < whole_->size()),
          Exit::checkpoint, "{}: the ids of the live tokens do not rise below {}; the file is damaged", where,
          whole_->size());
  live_of_.assign(whole_->size(), number_of(whole_->unknown_id()));
  for (std::size_t i = 0; i < live_.size(); ++i) live_of_[live_[i]] = static_cast<std::uint32_t>(i);
  const std::uint32_t end = whole_->end_of_text();
  end_of_text_ = end == kNoToken ? kNoToken : number_of(end);
}

void LiveVocabulary::encode(std::string_view text, std::vector<std::uint32_t>& ids, EncodeCounts* counts,
                            std::vector<std::string>* unknown_words) const {
  const std::size_t before = ids.size();
  whole_->encode(text, ids, counts, unknown_words);
  for (std::uint32_t& id : std::span(ids).subspan(before)) id = live_of_[id];
}

std::string LiveVocabulary::decode(std::span<const std::uint32_t> ids) const {
  std::vector<std::uint32_t> whole_ids;
  whole_ids.reserve(ids.size());
  for (const std::uint32_t id : ids) whole_ids.push_back(whole_id(id));
  return whole_->decode(whole_ids);
}

std::string LiveVocabulary::serialize() const {
  return fmt::format("{}{}\n{}", kHeading, spell_id_ranges(live_), whole_->serialize());
}

std::string LiveVocabulary::vocab_sha256() const {
  Sha256 hash;
  for (const std::uint32_t id : live_) {
    if (id != live_.front()) hash.update("\n");
    hash.update(whole_->piece(id));
  }
  return hash.hex();
}

std::uint32_t LiveVocabulary::whole_id(std::uint32_t id) const {
  require(id < size(), Exit::data, "token id {} is outside the vocabulary; expected 0 to {}", id, size() - 1);
  return live_[id];
}

std::unique_ptr<Tokenizer> keep_live(std::unique_ptr<Tokenizer> tokenizer, const std::string& where) {
  if (&tokenizer->whole() != tokenizer.get()) return tokenizer;
  auto* wordpiece = dynamic_cast<WordPiece*>(tokenizer.get());
  require(wordpiece != nullptr, Exit::usage,
          "--live-vocab: {} is a byte-level BPE; expected WordPiece, leave the flag out", where);
  tokenizer.release();
  std::unique_ptr<const WordPiece> whole(wordpiece);
  std::vector<std::uint32_t> live = live_ids(*whole);
  return std::make_unique<LiveVocabulary>(std::move(whole), std::move(live), where);
}

std::unique_ptr<LiveVocabulary> parse_live_vocabulary(std::string_view payload, const std::string& where) {
  const std::size_t line = payload.find('\n');
  const bool begins = line != payload.npos && payload.starts_with(kHeading);
  require(begins, Exit::checkpoint, "{}: no line of live tokens; the file is damaged", where);
  std::unique_ptr<const WordPiece> whole = parse_wordpiece(payload.substr(line + 1), where);
  const std::string_view list = payload.substr(kHeading.size(), line - kHeading.size());
  std::vector<std::uint32_t> live = parse_id_ranges(list, whole->size());
  require(spell_id_ranges(live) == list, Exit::checkpoint,
          "{}: the live tokens are not ranges of rising ids below {}; the file is damaged", where,
          whole->size());
  return std::make_unique<LiveVocabulary>(std::move(whole), std::move(live), where);
}

}  // namespace data
