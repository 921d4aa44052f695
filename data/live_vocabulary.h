// A WordPiece vocabulary without the tokens that no text gives: with bert-base-chinese's 13,583 of 21,128 are
// left, which spares a model a third of its embedding and head (docs/data.md, "Live vocabularies").
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"
#include "data/wordpiece.h"

namespace data {

// The ids that some text can give, and those of the special tokens, rising. None that can occur is missing;
// one too many may be there if its token, or each that begins words, is nearly kMaxWordCharacters long.
std::vector<std::uint32_t> live_ids(const WordPiece&);

// Its ids number the live tokens of whole() densely, in the same order. What whole() would encode as a token
// that is not live, which live_ids() rules out, becomes [UNK].
class LiveVocabulary final : public Tokenizer {
 public:
  // `live`: rising ids of `whole`, [UNK] and [SEP] among them. Throws Error(checkpoint) naming `where` if
  // they are not.
  LiveVocabulary(std::unique_ptr<const WordPiece> whole, std::vector<std::uint32_t> live,
                 const std::string& where);

  std::string_view kind() const noexcept override { return whole_->kind(); }
  WordRule words() const noexcept override { return whole_->words(); }
  std::uint32_t size() const noexcept override { return static_cast<std::uint32_t>(live_.size()); }
  std::uint32_t end_of_text() const noexcept override { return end_of_text_; }
  std::string_view piece(std::uint32_t id) const override { return whole_->piece(whole_id(id)); }
  void encode(std::string_view text, std::vector<std::uint32_t>& ids, EncodeCounts* counts = nullptr,
              std::vector<std::string>* unknown_words = nullptr) const override;
  std::string decode(std::span<const std::uint32_t> ids) const override;
  std::size_t settled(std::string_view decoded) const override { return whole_->settled(decoded); }
  // A line "live" with the ids of the live tokens as ranges ("live 0 100-103"), then whole().serialize().
  std::string serialize() const override;
  std::string vocab_sha256() const override;  // of the live tokens
  const Tokenizer& whole() const noexcept override { return *whole_; }
  std::uint32_t whole_id(std::uint32_t id) const override;

 private:
  std::unique_ptr<const WordPiece> whole_;
  std::vector<std::uint32_t> live_;     // [id] -> id in whole_
  std::vector<std::uint32_t> live_of_;  // [id in whole_] -> id; that of [UNK] where there is none
  std::uint32_t end_of_text_;
};

// The live tokens of a WordPiece vocabulary; one that is cut down already stays as it is. Throws Error(usage)
// for another kind.
std::unique_ptr<Tokenizer> keep_live(std::unique_ptr<Tokenizer>, const std::string& where);

// The inverse of LiveVocabulary::serialize(). Throws Error(checkpoint) naming `where`.
std::unique_ptr<LiveVocabulary> parse_live_vocabulary(std::string_view payload, const std::string& where);

}  // namespace data
