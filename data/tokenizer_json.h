// Vocabularies for Hugging Face's tokenizers.
#pragma once
#include <string>

#include "data/tokenizer.h"

namespace data {

// The text of a tokenizer.json that gives the ids of whole(): for byte-level BPE byte for byte what their
// trainer saves, with a ByteLevel decoder; for WordPiece BERT's normalizer and pre-tokenizer, and no [CLS]
// and [SEP] around the text.
std::string tokenizer_json(const Tokenizer&);

}  // namespace data
