#include "data/tokenizer.h"

#include "data/byte_bpe.h"
#include "data/tokenizer_json.h"
#include "tests/fuzz/support.h"

namespace tests::fuzz {

// First byte p: the payload that files carry; b: the tokens of byte-level BPE behind the bytes. Else, as
// container_of() takes it: a tokenizer file or vocab.txt.
bool tokenizer(Bytes bytes) {
  const Chosen chosen(bytes);
  if (chosen.choice != 'p' && chosen.choice != 'b') {
    const NamelessFile file(container_of(bytes));
    return taken([&] { hold(data::load_tokenizer(file.path())->size() > 0, "a vocabulary"); });
  }
  std::string payload(text_of(chosen.rest));
  if (chosen.choice == 'b') payload.insert(0, data::ByteBpe({}, "the bytes alone").serialize() + "\n");
  std::unique_ptr<data::Tokenizer> tokenizer;
  if (!taken([&] { tokenizer = data::deserialize_tokenizer(payload, "FILE"); })) return false;
  hold(tokenizer->serialize() == payload, "the same after writing");
  hold(tokenizer->vocab_sha256().size() == 64, "a hash");
  const std::string_view end = tokenizer->kind() == "bbpe" ? "<|endoftext|>" : "[SEP]";
  hold(tokenizer->end_of_text() == data::kNoToken || tokenizer->piece(tokenizer->end_of_text()) == end,
       "the right end-of-text");
  hold(!data::tokenizer_json(*tokenizer).empty(), "a tokenizer.json");
  return true;
}

}  // namespace tests::fuzz
