#include "tests/fuzz/support.h"

namespace tests::fuzz {

bool wikiextractor(Bytes bytes) {
  const Chosen chosen(bytes);
  const auto read = [](data::Input& input, const data::ReaderOptions&, data::DocumentSink& sink) {
    data::read_wikiextractor(input, sink);
  };
  return same_for_every_window(chosen.rest, chosen.choice, read, {});
}

}  // namespace tests::fuzz
