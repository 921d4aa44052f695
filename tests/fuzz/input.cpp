#include "tests/fuzz/support.h"

namespace tests::fuzz {

// Formats told by content, byte order marks, gzip, and the field that a JSON reader chooses. How the source
// hands out its bytes must not matter.
bool input(Bytes bytes) {
  const Chosen chosen(bytes);
  const auto read = [&](std::size_t piece) {
    return events_of(chosen.rest, 1 << 16, piece, ~std::uint64_t{0}, data::read_documents, {});
  };
  std::string whole, pieces;
  if (!taken([&] { whole = read(1 << 16); })) return false;
  hold(taken([&] { pieces = read(1 + chosen.choice % 16); }), "taken in pieces too");
  hold(whole == pieces, "the same documents for every size of pieces");
  return true;
}

}  // namespace tests::fuzz
