#include "data/tokenizer_json.h"

#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "data/byte_bpe.h"
#include "data/foreign_bpe.h"
#include "data/wordpiece.h"

namespace data {
namespace {

using Json = nlohmann::ordered_json;

Json special_token(const Tokenizer& tokenizer, std::uint32_t id) {
  return {{"id", id},
          {"content", tokenizer.piece(id)},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false},
          {"normalized", false},
          {"special", true}};
}

Json vocabulary(const Tokenizer& tokenizer) {
  Json tokens = Json::object();
  // Directly, since ordered_json looks through all keys at each insertion.
  auto& entries = tokens.get_ref<Json::object_t&>();
  for (std::uint32_t id = 0; id < tokenizer.size(); ++id) entries.emplace_back(tokenizer.piece(id), id);
  return tokens;
}

// `whole`: the vocabulary with the ids that are to be written.
Json bbpe_model(const ByteBpe& bbpe, const Tokenizer& whole) {
  Json merges = Json::array();
  for (std::uint32_t id = kFirstMerged; id < bbpe.size(); ++id) {
    const auto [left, right] = bbpe.parts(id);
    merges.push_back({bbpe.piece(left), bbpe.piece(right)});
  }
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", vocabulary(whole)},
          {"merges", std::move(merges)}};
}

Json byte_level(bool add_prefix_space) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", true}};
}

void add_bbpe(Json& json, const ByteBpe& bbpe, const Tokenizer& whole, Json added_tokens) {
  json["added_tokens"] = std::move(added_tokens);
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = byte_level(false);
  json["post_processor"] = nullptr;
  json["decoder"] = byte_level(true);
  json["model"] = bbpe_model(bbpe, whole);
}

Json wordpiece_special_tokens(const Tokenizer& tokenizer) {
  Json special = Json::array();
  for (std::uint32_t id = 0; id < tokenizer.size(); ++id) {
    const std::string_view token = tokenizer.piece(id);
    for (const std::string_view name : kSpecialWords)
      if (token == name) special.push_back(special_token(tokenizer, id));
  }
  return special;
}

}  // namespace

std::string tokenizer_json(const Tokenizer& any) {
  const Tokenizer& tokenizer = any.whole();
  Json json = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  if (const auto* bbpe = dynamic_cast<const ByteBpe*>(&tokenizer)) {
    add_bbpe(json, *bbpe, *bbpe, Json::array({special_token(*bbpe, bbpe->end_of_text())}));
  } else if (const auto* foreign = dynamic_cast<const ForeignBpe*>(&tokenizer)) {
    Json added = Json::array();
    for (const auto& [id, name] : foreign->markers()) added.push_back(special_token(*foreign, id));
    add_bbpe(json, foreign->bpe(), *foreign, std::move(added));
  } else {
    const auto& wordpiece = dynamic_cast<const WordPiece&>(tokenizer);
    json["added_tokens"] = wordpiece_special_tokens(wordpiece);
    json["normalizer"] = {{"type", "BertNormalizer"},
                          {"clean_text", true},
                          {"handle_chinese_chars", true},
                          {"strip_accents", wordpiece.rules().lower},
                          {"lowercase", wordpiece.rules().lower}};
    json["pre_tokenizer"] = {{"type", "BertPreTokenizer"}};
    json["post_processor"] = nullptr;
    json["decoder"] = {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", false}};
    json["model"] = {{"type", "WordPiece"},
                     {"unk_token", "[UNK]"},
                     {"continuing_subword_prefix", "##"},
                     {"max_input_chars_per_word", kMaxWordCharacters},
                     {"vocab", vocabulary(wordpiece)}};
  }
  constexpr int kIndent = 2;
  return json.dump(kIndent);
}

}  // namespace data
