// What a tokenizer.json of Hugging Face's tokenizers holds, read without looking at what it means.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace data {

struct TokenizerJsonContents {
  struct Added {
    std::string name;
    std::optional<std::uint64_t> id;
    bool special = false;
  };
  // Everything else: the place, as in "decoder/type", and what is there, strings in quotes. Objects are "an
  // object" and arrays "a list", beside what they hold.
  std::map<std::string, std::string> settings;
  std::vector<std::pair<std::string, std::uint32_t>> tokens;  // of model/vocab, where that is an object
  std::vector<std::array<std::string, 2>> merges;             // of model/merges, in either notation
  std::vector<Added> added;                                   // of added_tokens
};

// Throws Error(checkpoint) naming `where`: no JSON, something twice, tokens and merges in another form, over
// 2^20 of them, over 1,000 settings, values nested more than 16 deep.
TokenizerJsonContents read_tokenizer_json(std::string_view text, const std::string& where);

}  // namespace data
