// BERT's WordPiece tokenizer as bert-base-chinese shipped it: clean, isolate Han, split at blanks, lower-case
// and strip marks, split off punctuation, then the longest vocabulary entry from the left (docs/data.md,
// "WordPiece").
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/basic_tokenizer.h"
#include "data/piece_trie.h"
#include "data/tokenizer.h"

namespace data {

class WordPiece final : public Tokenizer {
 public:
  // `tokens`: the vocabulary, the index is the id. Throws Error(checkpoint), naming `where` and the line
  // (index + 1), for a token that occurs twice, holds a line feed or is not well-formed UTF-8, for a
  // vocabulary without [UNK], and for one larger than kMaxVocabularyBytes.
  WordPiece(std::vector<std::string> tokens, BertRules, const std::string& where);

  std::string_view kind() const noexcept override { return "wordpiece"; }
  WordRule words() const noexcept override { return WordRule::bert; }
  std::uint32_t size() const noexcept override { return static_cast<std::uint32_t>(tokens_.size()); }
  std::uint32_t end_of_text() const noexcept override { return end_of_text_; }
  std::string_view piece(std::uint32_t id) const override;
  // Linear in the text. A word over kMaxWordCharacters is given to `unknown_words` cut after that many
  // characters.
  void encode(std::string_view text, std::vector<std::uint32_t>& ids, EncodeCounts* counts = nullptr,
              std::vector<std::string>* unknown_words = nullptr) const override;
  std::string decode(std::span<const std::uint32_t> ids) const override;
  std::size_t settled(std::string_view decoded) const override;
  std::string serialize() const override;
  std::string vocab_sha256() const override;

  BertRules rules() const noexcept { return rules_; }
  std::uint32_t unknown_id() const noexcept { return unknown_; }
  // False when --cased would turn every capital letter into [UNK]: the vocabulary has no token of one capital
  // A-Z.
  bool has_capitals() const noexcept;

 private:
  class Encoder;
  std::string joined() const;  // the tokens, an LF between two

  std::vector<std::string> tokens_;
  BertRules rules_;
  PieceTrie trie_;
  std::uint32_t unknown_, end_of_text_, padding_,
      classify_;  // [UNK] [SEP] [PAD] [CLS]; kNoToken: there is none
  ActionTable actions_;
};

inline constexpr std::size_t kMaxVocabularyBytes = PieceTrie::kMaxBytes;

// Reads a vocab.txt: one token a line, split at LF only (U+2028 is a token of bert-base-chinese), CR before
// LF and one byte order mark at the start left out. Throws Error(checkpoint) naming the file and the line.
std::unique_ptr<WordPiece> read_vocab_txt(const std::filesystem::path&, BertRules = {});
std::unique_ptr<WordPiece> parse_vocab_txt(std::string_view bytes, BertRules, const std::string& where);
// A vocabulary's file, or a pipe, up to its end or until `enough` bytes are read. Throws Error(checkpoint)
// naming it.
std::string read_vocabulary_text(const std::filesystem::path&, std::size_t enough);

// The inverse of WordPiece::serialize(): a line "wordpiece lower" or "wordpiece cased", with " hf" behind it
// for rules.hugging_face, then the tokens, an LF between two. Throws Error(checkpoint) naming `where`.
std::unique_ptr<WordPiece> parse_wordpiece(std::string_view payload, const std::string& where);

}  // namespace data
