// Rules of language markup that hold for the rest of a page (docs/data.md, "Language markup").
#pragma once
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/language_markup.h"

namespace data {

// Around text that conversion must leave alone. Neither byte occurs in UTF-8; where one occurs in a page it
// is replaced by 0xC0, another such byte, so that repair makes and counts the same U+FFFD of it.
inline constexpr char kVerbatimBegin = '\xFE', kVerbatimEnd = '\xFF';
inline bool is_verbatim_mark(char c) noexcept { return c == kVerbatimBegin || c == kVerbatimEnd; }

// One page's rules and its text, which they are applied to from the place on where they stand: at each place
// the longest word that a rule speaks of is replaced, between verbatim marks; what stands between such marks
// is left alone. Linear in the text; the result does not depend on how the text is cut. A page has kMost
// words at most, further ones are not looked at; nor is a word that is empty, longer than kMostBytes, in
// several lines or ill-formed, or whose replacement is empty or more than kMostGrowth times as long.
class PageRules {
 public:
  static constexpr std::size_t kMost = 2000, kMostBytes = 64, kMostGrowth = 6;

  explicit PageRules(Variant wanted) : wanted_(wanted) {}

  // A rule that stands `offset` bytes behind the text applied so far.
  void change(std::size_t offset, RuleChange, std::string_view rules);
  // The text behind `offset` was taken back: rules in it stand there.
  void cut(std::size_t offset);
  // The next piece of the text. Appends to `out` what cannot change any more; with `last` all.
  void apply(std::string_view text, bool last, std::string& out);

 private:
  struct Change {
    std::uint64_t at;  // in the text
    std::string from;
    std::string to;  // empty: the rule is removed
  };
  struct Match {
    std::size_t bytes = 0;  // 0: none
    std::size_t number = 0;
  };
  static constexpr std::uint32_t kRoot = 0, kNoWord = UINT32_MAX;

  void make(const Change&);
  std::size_t apply_to(std::string_view text, bool last, std::string& out);
  Match longest(std::string_view text) const;

  Variant wanted_;
  std::size_t seen_ = 0;         // words that rules spoke of
  std::uint64_t position_ = 0;   // of the text: bytes behind which nothing was applied yet
  std::string held_;             // text from there on
  bool verbatim_ = false;        // it begins between marks
  std::vector<Change> changes_;  // still to come
  std::size_t made_ = 0;         // of them

  // The words as a trie over bytes.
  std::unordered_map<std::uint32_t, std::uint32_t> next_;  // state << 8 | byte -> state
  std::vector<std::uint32_t> words_;                       // [states] index of the replacement, or kNoWord
  std::vector<std::string> replacements_;
  std::bitset<1 << 16> starts_;  // [first two bytes] a word may begin so
};

}  // namespace data
