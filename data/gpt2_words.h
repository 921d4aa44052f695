// Where GPT-2's pattern cuts a text into words, which byte-level BPE never merges across (docs/data.md,
// "Byte-level BPE"):
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
#pragma once
#include <cstddef>
#include <string_view>

namespace data {

// Bytes of the word at the start of `text`, which holds at least one byte. Bytes that are not UTF-8 are
// characters of the third kind, one each. Linear in the word's length.
std::size_t gpt2_word(std::string_view text) noexcept;

// Calls use(std::string_view word) for each word; the words, joined, are the text.
template <class Use> void for_each_gpt2_word(std::string_view text, const Use& use) {
  while (!text.empty()) {
    const std::size_t bytes = gpt2_word(text);
    use(text.substr(0, bytes));
    text.remove_prefix(bytes);
  }
}

// Whether the words of text.substr(0, at) and of text.substr(at) are those of `text` and of every longer text
// that `text` is a part of. False where the bytes around `at`, which lies inside the text, do not tell.
bool parts_gpt2_words(std::string_view text, std::size_t at) noexcept;

}  // namespace data
