// Byte-level BPE with the ids of another program, such as GPT-2's, in which the bytes are 0 to 255 and
// end-of-text comes last (docs/data.md, "Vocabularies of other programs").
#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/byte_bpe.h"

namespace data {

class ForeignBpe final : public Tokenizer {
 public:
  using Markers = std::map<std::uint32_t, std::string>;

  // `ids`: those of the bytes in the order of kBytesByLetter, then of bpe's merged tokens. `markers`: id ->
  // name of every other token. No text becomes a marker and none has text; the one named kEndOfText is
  // end-of-text. Throws Error(checkpoint) naming `where` if ids and markers are not 0 to size() - 1, each
  // once, or if a marker's name is empty, longer than kMaxTokenBytes, not a line of UTF-8 or another token's.
  ForeignBpe(std::unique_ptr<const ByteBpe> bpe, const std::vector<std::uint32_t>& ids, Markers markers,
             const std::string& where);

  std::string_view kind() const noexcept override { return bpe_->kind(); }
  WordRule words() const noexcept override { return bpe_->words(); }
  std::uint32_t size() const noexcept override { return static_cast<std::uint32_t>(native_.size()); }
  std::uint32_t end_of_text() const noexcept override { return end_of_text_; }
  std::string_view piece(std::uint32_t id) const override;
  void encode(std::string_view text, std::vector<std::uint32_t>& ids, EncodeCounts* counts = nullptr,
              std::vector<std::string>* unknown_words = nullptr) const override;
  std::string decode(std::span<const std::uint32_t> ids) const override;
  std::size_t settled(std::string_view decoded) const override { return bpe_->settled(decoded); }
  // A line "bbpe" with `ids` as runs ("bbpe 0-50255"), then all tokens in the order of their ids, an LF
  // between two.
  std::string serialize() const override;
  std::string vocab_sha256() const override;

  const ByteBpe& bpe() const noexcept { return *bpe_; }
  std::uint32_t id_of(std::uint32_t native) const {
    return id_of_[native];
  }  // of a token of bpe(), not its 0
  const Markers& markers() const noexcept { return markers_; }

 private:
  std::uint32_t native(std::uint32_t id) const;  // 0, end-of-text of bpe_, which has no text: a marker
  std::string joined() const;                    // the tokens, an LF between two

  std::unique_ptr<const ByteBpe> bpe_;
  std::vector<std::uint32_t> id_of_;   // [id in bpe_]
  std::vector<std::uint32_t> native_;  // [id] -> id in bpe_; 0: a marker
  Markers markers_;
  std::uint32_t end_of_text_ = kNoToken;
};

// The inverse of ForeignBpe::serialize(). Throws Error(checkpoint) naming `where`.
std::unique_ptr<ForeignBpe> parse_foreign_bpe(std::string_view payload, const std::string& where);

}  // namespace data
