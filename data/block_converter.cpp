#include "data/block_converter.h"

#include <algorithm>

#include "data/utf8.h"
#include "data/wikitext.h"
#include "data/xml_text.h"

namespace data {

void BlockConverter::convert(TextBlock& block) const {
  WikitextCleaner cleaner(variant_);
  std::string decoded, cleaned;
  std::size_t begin = 0;
  for (Part& part : block.parts) {
    const auto text = std::string_view(block.text).substr(begin, part.text_end - begin);
    begin = part.text_end;
    if (part.wikitext_from == Part::kNoWikitext) {
      if (part.marked) append_marked(text, part.verbatim, block);
      else append(text, false, block);
    } else {
      decoded.clear();
      cleaned.clear();
      decode_xml(text.substr(part.wikitext_from), decoded);
      cleaner.push(decoded, cleaned);
      cleaner.finish(cleaned);
      if (is_blank_text(cleaned)) {
        part.then = PartEnd::abandoned;
        ++block.empty_pages;
      } else {
        append(text.substr(0, part.wikitext_from), false, block);
        append_marked(cleaned, false, block);
      }
    }
    part.converted_end = block.converted.size();
  }
}

void BlockConverter::append(std::string_view text, bool verbatim, TextBlock& block) const {
  const auto convert = [&](std::string_view well_formed) {
    if (converter_ != nullptr && !verbatim) converter_->convert(well_formed, block.converted);
    else block.converted.append(well_formed);
  };
  if (is_well_formed(text)) convert(text);
  else convert(repair_utf8(text, &block.replaced));
}

void BlockConverter::append_marked(std::string_view text, bool verbatim, TextBlock& block) const {
  while (!text.empty()) {
    const auto mark = std::ranges::find_if(text, is_verbatim_mark);
    const auto plain = static_cast<std::size_t>(mark - text.begin());
    append(text.substr(0, plain), verbatim, block);
    if (mark != text.end()) verbatim = *mark == kVerbatimBegin;
    text.remove_prefix(std::min(plain + 1, text.size()));
  }
}

}  // namespace data
