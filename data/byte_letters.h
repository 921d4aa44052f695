// GPT-2's spelling of bytes: each byte is written as one printable character, so that a token of any bytes is
// a word without blanks. Vocabularies of byte-level BPE are files of such words.
#pragma once
#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace data {

// [256] the bytes in the order of their letters, which is the order of their ids. The letter of a byte is
// itself where Latin-1 shows it (! to ~, ¡ to ¬, ® to ÿ), else U+0100 and following in the order of the
// bytes.
extern const std::array<unsigned char, 256> kBytesByLetter;

std::string spell_bytes(std::string_view bytes);
// The inverse; nothing if a character is no byte's letter.
std::optional<std::string> bytes_of_spelling(std::string_view spelling);

}  // namespace data
