#include "data/wikitext.h"

#include <algorithm>

#include "tests/fuzz/support.h"

namespace tests::fuzz {
namespace {

std::string cleaned(std::string_view page, std::size_t piece, data::Variant variant) {
  data::WikitextCleaner cleaner(variant);
  std::string out;
  for (; !page.empty(); page.remove_prefix(std::min(piece, page.size())))
    cleaner.push(page.substr(0, piece), out);
  cleaner.finish(out);
  return out;
}

}  // namespace

// The first byte: the variant, and the size of pieces.
bool wikitext(Bytes bytes) {
  const Chosen chosen(bytes);
  const std::string_view page = text_of(chosen.rest);
  const auto variant = chosen.choice % 2 == 1 ? data::Variant::traditional : data::Variant::simplified;
  const std::string whole = cleaned(page, page.size() + 1, variant);
  hold(whole == cleaned(page, 1 + chosen.choice / 2, variant), "the same text for every size of pieces");
  hold(whole.size() <= 64 + 8 * page.size(), "a text of about the size of its page");
  bool verbatim = false;
  for (const char c : whole) {
    if (!data::is_verbatim_mark(c)) continue;
    hold((c == data::kVerbatimBegin) != verbatim, "marks in turn");
    verbatim = !verbatim;
  }
  hold(!verbatim, "every verbatim text ends");
  return true;
}

}  // namespace tests::fuzz
