// MediaWiki's markup for variants of Chinese, -{FLAGS|RULES}- (docs/data.md, "Language markup").
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace data {

enum class Variant : std::uint8_t { simplified, traditional };  // which of several wordings a text is to have

// The variant that an OpenCC configuration ("t2s", "s2twp.json", a path) converts to: traditional for s2*,
// t2t* and the like, else simplified, also for "off".
Variant variant_of(std::string_view opencc_config);

struct LanguageRule {
  std::string_view text;  // of the wanted variant; a part of the markup, or empty
  bool verbatim;          // conversion must leave it alone
};

// What is shown for the markup between "-{" and "}-". Of rules "zh-hans:A; zh-hant:B" the wanted variant's
// text is taken, else that of its relatives, else the first one, which may then be converted.
LanguageRule resolve_language_markup(std::string_view markup, Variant);

}  // namespace data
