#include "data/tokenizer.h"

#include "tests/fuzz/support.h"

namespace tests::fuzz {

// First byte p: the payload that files carry. Else, as container_of() takes it: a tokenizer file or
// vocab.txt.
bool tokenizer(Bytes bytes) {
  const Chosen chosen(bytes);
  if (chosen.choice != 'p') {
    const NamelessFile file(container_of(bytes));
    return taken([&] { hold(data::load_tokenizer(file.path())->size() > 0, "a vocabulary"); });
  }
  std::unique_ptr<data::Tokenizer> tokenizer;
  if (!taken([&] { tokenizer = data::deserialize_tokenizer(text_of(chosen.rest), "FILE"); })) return false;
  hold(tokenizer->serialize() == text_of(chosen.rest), "the same after writing");
  hold(tokenizer->vocab_sha256().size() == 64, "a hash");
  hold(tokenizer->end_of_text() == data::kNoToken || tokenizer->piece(tokenizer->end_of_text()) == "[SEP]",
       "end-of-text is [SEP]");
  return true;
}

}  // namespace tests::fuzz
