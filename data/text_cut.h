// Where a text may be cut so that converting and tokenizing the two parts gives what the whole gives.
#pragma once
#include <cstddef>
#include <string_view>

#include "data/t2s.h"
#include "data/tokenizer.h"

namespace data {

// A position in (0, text.size()] at which neither a word (by the rule `words`) nor, with a converter, a
// phrase is cut: behind the last line feed of the second half, else, in this order, by BERT's rule behind the
// last blank, Han character or punctuation mark, by GPT-2's where the last word ends. A run with none of
// these is cut between two characters, wherever that falls: for BERT no word of more than kMaxWordCharacters
// has a meaning. `text` need not be well-formed. Depends on `text` alone.
std::size_t safe_cut(std::string_view text, WordRule words, const Converter* converter);

// Bytes of `text` without an unfinished character at its end.
std::size_t whole_characters(std::string_view text) noexcept;

}  // namespace data
