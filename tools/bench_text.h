// A text for benchmarks where no dump is at hand.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace tools {

// About `bytes` of an abstract dump (whole documents, at least one): titles, URLs, links, and abstracts of
// Han characters by Zipf's law with punctuation, numbers and Latin words among them. The same for the same
// arguments on every machine.
std::string make_abstract_dump(std::size_t bytes, std::uint64_t seed);

}  // namespace tools
