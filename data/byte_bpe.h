// Byte-level byte-pair encoding as GPT-2 and Hugging Face's tokenizers have it: words by GPT-2's pattern,
// each a sequence of bytes in which the pair that was merged first in training is merged first (docs/data.md,
// "Byte-level BPE"). Any bytes can be encoded, and decoding gives them back.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/code_point_table.h"
#include "data/merge_table.h"
#include "data/piece_trie.h"
#include "data/tokenizer.h"

namespace data {

inline constexpr std::string_view kEndOfText = "<|endoftext|>";  // id 0
inline constexpr std::uint32_t kFirstMerged = 257;  // ids 1 to 256 are the bytes, as kBytesByLetter
inline constexpr std::size_t kMaxTokenBytes = 1024;

class ByteBpe final : public Tokenizer {
 public:
  // `merged`: the bytes of the tokens kFirstMerged and following, in the order in which they were merged. The
  // merges follow from them: with the tokens before it, each token must fall into exactly two, which it
  // joins. Throws Error(checkpoint), naming `where` and the merge (from 1), where that is not so, and for
  // more than kMaxTokenBytes in a token or kMaxVocabularyBytes in all.
  ByteBpe(const std::vector<std::string>& merged, const std::string& where);

  std::string_view kind() const noexcept override { return "bbpe"; }
  WordRule words() const noexcept override { return WordRule::gpt2; }
  std::uint32_t size() const noexcept override { return static_cast<std::uint32_t>(tokens_.size()); }
  std::uint32_t end_of_text() const noexcept override { return 0; }
  std::string_view piece(std::uint32_t id) const override;  // as spell_bytes() writes it
  // Any bytes. `<|endoftext|>` in the text is text like any other. Linear in the text.
  void encode(std::string_view text, std::vector<std::uint32_t>& ids, EncodeCounts* counts = nullptr,
              std::vector<std::string>* unknown_words = nullptr) const override;
  // The bytes of the ids, which need not be UTF-8; end-of-text has none.
  std::string decode(std::span<const std::uint32_t> ids) const override;
  std::size_t settled(std::string_view decoded) const override;
  std::string serialize() const override;
  std::string vocab_sha256() const override;

  // The two tokens that `id`, at least kFirstMerged, joins.
  std::array<std::uint32_t, 2> parts(std::uint32_t id) const { return {tokens_[id].left, tokens_[id].right}; }

 private:
  struct Token {
    std::uint32_t left = kNoToken, right = kNoToken;  // what it joins; kNoToken: nothing, it is a byte
    std::uint32_t shorter = kNoToken;                 // the longest other token that it starts with
    std::uint32_t bytes = 0;
  };
  // What encode() starts from where a character cannot be cut: its token.
  struct Character {
    std::uint32_t id : 30 = 0;  // 0: it has none of its own
    // A merge may join a part of this character, or this one with a part of another, across its border.
    std::uint32_t open_left : 1 = 0, open_right : 1 = 0;
  };
  struct Path;
  std::string_view bytes_of(std::uint32_t id) const noexcept {
    return {bytes_.data() + bytes_at_[id], tokens_[id].bytes};
  }
  void find_characters();
  bool stand_together(std::uint32_t left, std::uint32_t right) const noexcept;
  void search(std::string_view word, std::uint32_t below, Path& path) const;
  bool merge_characters(std::string_view word, std::vector<std::uint32_t>& ids) const;

  std::string spelled_;                  // all tokens, LF behind each
  std::vector<std::size_t> spelled_at_;  // [size + 1] where each begins
  std::string bytes_;                    // of all tokens
  std::vector<std::size_t> bytes_at_;    // [size + 1]
  PieceTrie trie_;                       // over bytes
  std::vector<Token> tokens_;
  MergeTable merges_;
  CodePointTable<Character> characters_;
};

// The inverse of ByteBpe::serialize(): a line "bbpe", then the tokens as spell_bytes() writes them, an LF
// between two: `<|endoftext|>`, the bytes, the merged tokens. Throws Error(checkpoint) naming `where`.
std::unique_ptr<ByteBpe> parse_byte_bpe(std::string_view payload, const std::string& where);

}  // namespace data
