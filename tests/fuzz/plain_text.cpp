#include "tests/fuzz/support.h"

namespace tests::fuzz {

bool plain_text(Bytes bytes) {
  const Chosen chosen(bytes);
  const auto read = [](data::Input& input, const data::ReaderOptions& options, data::DocumentSink& sink) {
    data::read_plain_text(input, options.separator, sink);
  };
  data::ReaderOptions options;
  if (chosen.choice % 2 == 1) options.separator = "---";
  return same_for_every_window(chosen.rest, chosen.choice, read, options);
}

}  // namespace tests::fuzz
