// Where a text may be cut so that converting and tokenizing the two parts gives what the whole gives.
#pragma once
#include <cstddef>
#include <string_view>

#include "data/t2s.h"

namespace data {

// A position in (0, text.size()]: behind the last line feed of the second half, else behind the last blank,
// else behind the last Han character, else behind the last punctuation mark, at which neither a word nor
// (with a converter) a phrase is cut. A run with none of these is cut between two characters, wherever that
// falls: no word of more than WordPiece::kMaxWordCharacters has a meaning. `text` need not be well-formed.
// Depends on `text` alone.
std::size_t safe_cut(std::string_view text, const Converter* converter);

// Bytes of `text` without an unfinished character at its end.
std::size_t whole_characters(std::string_view text) noexcept;

}  // namespace data
