// Vocabularies for and of Hugging Face's tokenizers.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "data/tokenizer.h"

namespace data {

// The text of a tokenizer.json that gives the ids of whole(): for byte-level BPE byte for byte what their
// trainer saves, with a ByteLevel decoder; for WordPiece BERT's normalizer and pre-tokenizer, and no [CLS]
// and [SEP] around the text.
std::string tokenizer_json(const Tokenizer&);

// Whether a text begins as a JSON object that holds something: '{', then '"' in the same or in a later line
// with more behind it. A vocab.txt may hold both as tokens, alone in their lines.
bool begins_as_json(std::string_view text);

inline constexpr std::size_t kMaxTokenizerJsonBytes = std::size_t{64} << 20;

// The byte-level BPE of a tokenizer.json, with its ids: a ByteBpe where they are those of one, else a
// ForeignBpe. Throws Error(checkpoint) naming `where` for everything else, and for what would encode
// otherwise here (docs/data.md, "Vocabularies of other programs").
std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& where);

}  // namespace data
