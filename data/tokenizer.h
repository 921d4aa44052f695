// What every tokenizer does. Text is valid UTF-8 (data/utf8.h repairs it first); ids are in [0, size()).
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/basic_tokenizer.h"

namespace data {

inline constexpr std::uint32_t kNoToken = 0xFFFFFFFF;  // no such id

// What encoding one text lost, added up for the report of `prepare`.
struct EncodeCounts {
  std::uint64_t tokens = 0;
  std::uint64_t unknown = 0;             // words that became [UNK]
  std::uint64_t dropped_characters = 0;  // control, format, unassigned, U+FFFD
  std::uint64_t special_words = 0;  // blank-separated words that are exactly [UNK] [SEP] [PAD] [CLS] [MASK]

  EncodeCounts& operator+=(const EncodeCounts& other) noexcept {
    tokens += other.tokens;
    unknown += other.unknown;
    dropped_characters += other.dropped_characters;
    special_words += other.special_words;
    return *this;
  }
};

// What no token reaches across: the words of BERT, or those of GPT-2's pattern (data/gpt2_words.h).
enum class WordRule : std::uint8_t { bert, gpt2 };

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string_view kind() const noexcept = 0;  // "wordpiece" (char vocabularies too) or "bbpe"
  virtual WordRule words() const noexcept = 0;
  virtual std::uint32_t size() const noexcept = 0;  // number of ids
  // [SEP], or <|endoftext|> of byte-level BPE; kNoToken if there is none.
  virtual std::uint32_t end_of_text() const noexcept = 0;
  virtual std::string_view piece(std::uint32_t id) const = 0;  // as in the vocabulary file; id < size()
  // Appends the ids of `text` and adds to *counts. `unknown_words`, when given, receives each word that
  // became [UNK]. The ids of two texts, one after the other, are those of the joined text if the cut is where
  // a word ends (data/text_cut.h finds such places). Several threads may call it at once.
  virtual void encode(std::string_view text, std::vector<std::uint32_t>& ids, EncodeCounts* counts = nullptr,
                      std::vector<std::string>* unknown_words = nullptr) const = 0;
  // The text of ids, each < size(). Lossy for WordPiece (docs/data.md, "Decoding"); for byte-level BPE the
  // bytes that were encoded, which need not be UTF-8.
  virtual std::string decode(std::span<const std::uint32_t> ids) const = 0;
  // Bytes at the start of decode(ids) that may be shown while more ids are to come: not the character or the
  // word at the end that the next id may go on with.
  virtual std::size_t settled(std::string_view decoded) const = 0;
  // The self-contained form that token files, tokenizer files and checkpoints carry as tensor `tokenizer`.
  virtual std::string serialize() const = 0;
  virtual std::string vocab_sha256() const = 0;  // hex, over the tokens joined by LF
  // The vocabulary whose ids people know: for live tokens (data/live_vocabulary.h) the one that they are of,
  // else this one.
  virtual const Tokenizer& whole() const noexcept { return *this; }
  virtual std::uint32_t whole_id(std::uint32_t id) const { return id; }  // of a token in whole(); id < size()
};

// The inverse of serialize(). Every byte is checked. Throws Error(checkpoint) naming `where`.
std::unique_ptr<Tokenizer> deserialize_tokenizer(std::string_view payload, const std::string& where);

// Writes a tokenizer file: a container with `format` nsa-tokenizer/1 and the tensor `tokenizer`. Throws
// Error(io).
void save_tokenizer(const Tokenizer&, const std::filesystem::path&);
// Reads a vocabulary of another program, told by its content: a vocab.txt, to which the rules apply, or a
// tokenizer.json of byte-level BPE, with which others than BertRules{} throw Error(usage). Throws
// Error(checkpoint) naming the file.
std::unique_ptr<Tokenizer> read_vocabulary(const std::filesystem::path&, BertRules = {});
// Reads a tokenizer file, which knows its rules, or what read_vocabulary() does; told apart by content.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path&, BertRules = {});
// The same, also out of a token file or checkpoint, which hold the vocabulary that they were made with.
std::unique_ptr<Tokenizer> load_vocabulary(const std::filesystem::path&, BertRules = {});

// Text of a growing sequence of ids, never more than is settled: an unfinished character or a word that a
// "##" piece may continue is held back until the next id or finish(). What push() and finish() return,
// joined, is decode().
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string push(std::uint32_t id);
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::vector<std::uint32_t> ids_;  // what is not settled, with one id of context before it
  std::size_t sent_ = 0;            // bytes of decode(ids_) already returned
};

}  // namespace data
