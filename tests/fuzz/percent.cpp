#include "data/percent.h"

#include <fmt/format.h>

#include "data/utf8.h"
#include "tests/fuzz/support.h"

namespace tests::fuzz {

// The first byte gives the size of pieces; then text with escapes.
bool percent(Bytes bytes) {
  const Chosen chosen(bytes);
  const std::string_view text = text_of(chosen.rest);
  const std::string decoded = data::percent_decode(text);
  hold(decoded.size() <= text.size(), "decoding adds nothing");
  hold(!data::is_well_formed(text) || data::is_well_formed(decoded), "well-formed text stays so");
  data::PercentDecoder stream;
  std::string pieces, escaped;
  const std::size_t piece = 1 + chosen.choice % 8;
  for (std::size_t at = 0; at < text.size(); at += piece) pieces += stream.push(text.substr(at, piece));
  hold(pieces + stream.finish() == decoded, "the same in pieces");
  const std::string repaired = data::repair_utf8(text);
  for (const char c : repaired) escaped += fmt::format("%{:02x}", static_cast<unsigned char>(c));
  hold(data::percent_decode(escaped) == repaired, "what was escaped");
  return true;
}

}  // namespace tests::fuzz
