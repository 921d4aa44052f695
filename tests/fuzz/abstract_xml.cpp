#include "tests/fuzz/support.h"

namespace tests::fuzz {

bool abstract_xml(Bytes bytes) {
  const Chosen chosen(bytes);
  const auto read = [](data::Input& input, const data::ReaderOptions&, data::DocumentSink& sink) {
    data::read_abstract_xml(input, sink);
  };
  return same_for_every_window(chosen.rest, chosen.choice, read, {});
}

}  // namespace tests::fuzz
