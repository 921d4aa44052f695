#include "data/tokenizer_json.h"

#include <map>
#include <nlohmann/json.hpp>

#include "data/byte_letters.h"
#include "data/gpt2_words.h"
#include "tests/fuzz/support.h"

namespace tests::fuzz {
namespace {

using Json = nlohmann::ordered_json;
using Ids = std::vector<std::uint32_t>;

std::vector<std::string> letters_of(std::string_view bytes) {
  std::vector<std::string> letters;
  for (const char byte : bytes) letters.push_back(data::spell_bytes({&byte, 1}));
  return letters;
}

// GPT-2's layout with merges "a b", a line each: what they make is numbered in their order, if it is new.
Json with_merges(std::string_view lines) {
  std::string bytes;
  for (const unsigned char byte : data::kBytesByLetter) bytes += static_cast<char>(byte);
  Json vocabulary = Json::object(), merges = Json::array();
  for (const std::string& letter : letters_of(bytes)) vocabulary[letter] = vocabulary.size();
  while (!lines.empty()) {
    const std::string line(lines.substr(0, lines.find('\n')));
    lines.remove_prefix(std::min(line.size() + 1, lines.size()));
    merges.push_back(line);
    const std::size_t blank = std::min(line.find(' '), line.size());
    const std::string joined = line.substr(0, blank) + line.substr(std::min(blank + 1, line.size()));
    if (!vocabulary.contains(joined)) vocabulary[joined] = vocabulary.size();
  }
  vocabulary["<|endoftext|>"] = vocabulary.size();
  return {{"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"vocab", std::move(vocabulary)}, {"merges", std::move(merges)}}}};
}

// By the definition: in each word the earliest merge first, at its leftmost place.
Ids by_definition(const Json& model, std::string_view text) {
  std::map<std::string, std::size_t> ranks;
  for (const auto& merge : model["merges"]) ranks.emplace(merge.get<std::string>(), ranks.size());
  std::map<std::string, std::uint32_t> ids_of;
  for (const auto& [name, id] : model["vocab"].items()) ids_of[name] = id.get<std::uint32_t>();
  Ids ids;
  data::for_each_gpt2_word(text, [&](std::string_view word) {
    std::vector<std::string> tokens = letters_of(word);
    for (;;) {
      std::size_t first = ranks.size(), place = 0;
      for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
        const auto found = ranks.find(tokens[i] + ' ' + tokens[i + 1]);
        if (found != ranks.end() && found->second < first) first = found->second, place = i;
      }
      if (first == ranks.size()) break;
      tokens[place] += tokens[place + 1];
      tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(place) + 1);
    }
    for (const std::string& token : tokens) ids.push_back(ids_of.at(token));
  });
  return ids;
}

}  // namespace

// First byte m: merges, a line each, NUL, a text to encode. Else the rest is a tokenizer.json.
bool tokenizer_json(Bytes bytes) {
  const Chosen chosen(bytes);
  const std::string_view rest = text_of(chosen.rest), lines = rest.substr(0, rest.find('\0'));
  const bool made = chosen.choice == 'm';
  Json file;
  std::string text(rest);
  if (made) {
    file = with_merges(lines);
    text = file.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  std::unique_ptr<data::Tokenizer> tokenizer;
  if (!taken([&] { tokenizer = data::parse_tokenizer_json(text, "FILE"); })) return false;
  const std::uint32_t end = tokenizer->end_of_text();
  hold(end == data::kNoToken || tokenizer->piece(end) == "<|endoftext|>", "the right end-of-text");
  const std::string payload = tokenizer->serialize();
  hold(data::deserialize_tokenizer(payload, "FILE")->serialize() == payload, "the same from a file");
  const auto again = data::parse_tokenizer_json(data::tokenizer_json(*tokenizer), "FILE");
  hold(again->serialize() == payload, "the same after writing");
  Ids ids;
  tokenizer->encode(rest, ids);
  for (const std::uint32_t id : ids) hold(id < tokenizer->size(), "ids in the vocabulary");
  hold(tokenizer->decode(ids) == rest, "bytes that come back");
  constexpr std::size_t kSlow = 300;
  if (made && rest.size() <= kSlow)
    hold(ids == by_definition(file["model"], rest), "the ids of the definition");
  return true;
}

}  // namespace tests::fuzz
