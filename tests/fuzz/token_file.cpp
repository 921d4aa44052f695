#include "data/token_file.h"

#include "data/windows.h"
#include "tests/fuzz/support.h"

namespace tests::fuzz {

bool token_file(Bytes bytes) {
  const auto bytes_of_file = container_of(bytes);
  return taken([&] {
    const data::TokenFile file(bytes_of_file, "FILE");
    hold(file.size() > 0 && file.validation_from() <= file.size(), "a validation part inside the tokens");
    hold(file.end_of_text() < file.vocab_size(), "end-of-text in the vocabulary");
    std::vector<std::int32_t> ids(file.size());
    file.read(0, ids);
    for (const std::int32_t id : ids)
      hold(id >= 0 && static_cast<std::uint32_t>(id) < file.vocab_size(), "ids in the vocabulary");
    std::uint64_t last = 0;
    for (const std::uint64_t start : file.documents()) {
      hold(start >= last && start <= file.size(), "document starts that rise");
      last = start;
    }
    hold(file.documents().front() == 0 && last == file.size(), "a document table from 0 to the end");
    hold(!taken([&] { file.read(file.size(), std::span(ids).first(1)); }), "no token behind the last");
    const data::Windows windows(file, 0, file.validation_from(), 4);
    std::vector<std::int32_t> inputs(4), targets(4);
    for (std::uint64_t w = 0; w < windows.all(); ++w) windows.read(w, inputs, targets);
    hold(!file.fingerprint().empty(), "a fingerprint");
    file.verify();
    hold(file.tokenizer()->size() > 0, "a vocabulary");
  });
}

}  // namespace tests::fuzz
