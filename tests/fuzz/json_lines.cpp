#include "tests/fuzz/support.h"

namespace tests::fuzz {

// The field's name is given: without one the first object chooses it as far as the window shows.
bool json_lines(Bytes bytes) {
  const Chosen chosen(bytes);
  const auto read = [](data::Input& input, const data::ReaderOptions& options, data::DocumentSink& sink) {
    data::read_json(input, options.text_field, sink);
  };
  data::ReaderOptions options;
  options.text_field = "text";
  return same_for_every_window(chosen.rest, chosen.choice, read, options);
}

}  // namespace tests::fuzz
