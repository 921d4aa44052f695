// MediaWiki's markup for variants of Chinese, -{FLAGS|RULES}- (docs/data.md, "Language markup").
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace data {

enum class Variant : std::uint8_t { simplified, traditional };  // which of several wordings a text is to have

// The variant that an OpenCC configuration ("t2s", "s2twp.json", a path) converts to: traditional for s2*,
// t2t* and the like, else simplified, also for "off".
Variant variant_of(std::string_view opencc_config);

enum class RuleChange : std::uint8_t { none, add, remove };

// Views are parts of the markup, or empty.
struct LanguageRule {
  std::string_view text;                 // what is shown, of the wanted variant
  bool verbatim = true;                  // conversion must leave it alone
  RuleChange change = RuleChange::none;  // to the rules of the page
  std::string_view rules = {};           // that are added to them or removed
};

// What the markup between "-{" and "}-" says. Of rules "zh-hans:A; zh-hant:B" the wanted variant's text is
// shown, else that of its relatives, else the first one, which may then be converted.
LanguageRule resolve_language_markup(std::string_view markup, Variant);

// A word and what is written for it.
struct Wording {
  std::string_view from, to;
};

// The first `most` words that rules of a page speak of: of "zh-hans:A; zh-hant:B" both become the wanted
// variant's, of "A=>zh-hans:B" only A does; a text that is no rule stays as it is. Later ones take
// precedence.
std::vector<Wording> wordings_of(std::string_view rules, Variant, std::size_t most);

}  // namespace data
