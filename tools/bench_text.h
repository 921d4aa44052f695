// A text for benchmarks where no dump is at hand.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace tools {

// About `bytes` of an abstract dump (whole documents, at least one): titles, URLs, links, and abstracts of
// Han characters by Zipf's law with punctuation, numbers and Latin words among them. The same for the same
// arguments on every machine.
std::string make_abstract_dump(std::size_t bytes, std::uint64_t seed);

// A pages-articles dump of these texts, of about `bytes` (whole pages, at least one), with the usual markup
// put into them: an infobox, links, references, language markup, headings and a category. The same for the
// same texts.
std::string make_pages_dump(std::span<const std::string_view> texts, std::size_t bytes);

}  // namespace tools
