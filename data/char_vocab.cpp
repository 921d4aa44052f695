#include "data/char_vocab.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "data/utf8.h"
#include "engine/error.h"

namespace data {
namespace {

using engine::Exit;

// One entry of the vocabulary: a character at the start of a word, or inside one ("##").
struct Entry {
  char32_t c;
  bool inside;
  std::uint64_t times = 0;

  std::string spelling() const {
    std::string token = inside ? "##" : "";
    append_utf8(token, c);
    return token;
  }
};

// What every vocabulary holds, whatever the text: printable ASCII, and inside words its letters and digits.
std::vector<Entry> ascii_entries(bool lower) {
  std::vector<Entry> heads, inside;
  for (char32_t c = 0x21; c < 0x7F; ++c) {
    const bool capital = 'A' <= c && c <= 'Z', small = 'a' <= c && c <= 'z', digit = '0' <= c && c <= '9';
    if (lower && capital) continue;
    heads.push_back({c, false});
    if (capital || small || digit) inside.push_back({c, true});
  }
  heads.insert(heads.end(), inside.begin(), inside.end());
  return heads;
}

}  // namespace

// What split_words() calls.
class CharCounter::Sink {
 public:
  explicit Sink(CodePointTable<Times>& counts) : counts_(counts) {}
  void word(const Word& word) {
    const std::string_view text = word.text();
    const char* at = text.data();
    ++counts_.cell(next_code_point(at)).head;
    while (at != text.data() + text.size()) ++counts_.cell(next_code_point(at)).inside;
  }
  void token(std::uint32_t code_point, std::string_view) { ++counts_.cell(code_point).head; }
  void special(std::string_view) {}
  void dropped(std::size_t) {}

 private:
  CodePointTable<Times>& counts_;
};

CharCounter::CharCounter(BertRules rules)
    : rules_(rules),
      actions_(make_actions(rules, [](char32_t c) { return static_cast<std::uint32_t>(c); })) {}

void CharCounter::add(std::string_view text) {
  Sink sink(counts_);
  split_words(actions_, text, sink);
}

void CharCounter::merge(const CharCounter& other) {
  for (char32_t c = 0; c <= kLastCodePoint; ++c) {
    const Times& more = other.counts_[c];
    if (more.head + more.inside == 0) continue;
    Times& sum = counts_.cell(c);
    sum.head += more.head;
    sum.inside += more.inside;
  }
}

std::unique_ptr<WordPiece> CharCounter::finish(std::uint32_t vocab_size, double coverage,
                                               CharVocabReport* report) const {
  std::vector<std::string> tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  CharVocabReport made;
  CodePointTable<Times> rest = counts_;
  for (const Entry& entry : ascii_entries(rules_.lower)) {
    tokens.push_back(entry.spelling());
    std::uint64_t& times = entry.inside ? rest.cell(entry.c).inside : rest.cell(entry.c).head;
    made.distinct += times > 0 ? 1 : 0;
    made.covered += std::exchange(times, 0);
  }
  engine::require(0.0 < coverage && coverage <= 1.0, Exit::usage,
                  "--coverage {}: expected a share above 0, at most 1", coverage);
  engine::require(
      vocab_size >= tokens.size(), Exit::usage,
      "--vocab-size {} is too small for a char vocabulary: its special tokens and printable ASCII alone "
      "are {}; expected at least that",
      vocab_size, tokens.size());

  made.characters = made.covered;
  std::vector<Entry> order;
  for (char32_t c = 0; c <= kLastCodePoint; ++c) {
    if (rest[c].head > 0) order.push_back({c, false, rest[c].head});
    if (rest[c].inside > 0) order.push_back({c, true, rest[c].inside});
  }
  for (const Entry& entry : order) made.characters += entry.times;
  made.distinct += order.size();
  std::stable_sort(order.begin(), order.end(),
                   [](const Entry& a, const Entry& b) { return a.times > b.times; });
  for (const Entry& entry : order) {
    if (tokens.size() == vocab_size || made.coverage() >= coverage) break;
    tokens.push_back(entry.spelling());
    made.covered += entry.times;
  }
  made.size = static_cast<std::uint32_t>(tokens.size());
  if (report != nullptr) *report = made;
  return std::make_unique<WordPiece>(std::move(tokens), rules_, "char vocabulary");
}

}  // namespace data
