#include "tests/fuzz/support.h"

namespace tests::fuzz {

bool pages_xml(Bytes bytes) {
  const Chosen chosen(bytes);
  const auto read = [](data::Input& input, const data::ReaderOptions& options, data::DocumentSink& sink) {
    data::read_pages_xml(input, options.variant, sink);
  };
  return same_for_every_window(chosen.rest, chosen.choice, read, {});
}

}  // namespace tests::fuzz
