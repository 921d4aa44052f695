// zhwiki.bin: the token ids of many documents in one container, written as a stream and read by mapping
// (docs/reference.md, "Files").
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/spool.h"
#include "data/tokenizer.h"
#include "engine/container.h"

namespace data {

// How documents are divided into a training and a validation part.
struct Split {
  enum class Rule : std::uint8_t {
    hash,  // a document is validation if its SplitHash lies below the share; at least one document on each
           // side
    tail,  // the last floor(tokens x share) tokens, from the first document start in them
  };
  Rule rule = Rule::hash;
  double share = 0.01;  // of the documents (hash) or tokens (tail), in [0, 1); 0: no validation part
};

// 64 well mixed bits of a key, given in pieces, under a seed; the same on every machine.
class SplitHash {
 public:
  explicit SplitHash(std::uint64_t seed) noexcept;
  void update(std::string_view key) noexcept;
  std::uint64_t value() const noexcept;

 private:
  std::uint64_t state_;
};

struct TokenFileNotes {  // metadata that the tokens do not tell
  std::string t2s, opencc_version, unicode_version, source, counts, made_by;
};

struct TokenFileSummary {
  std::uint64_t documents = 0, tokens = 0, validation_documents = 0;
  std::uint64_t validation_from = 0;  // first token of the validation part; == tokens: there is none
  std::uint64_t text_bytes_train = 0, text_bytes_validation = 0;
  bool tail_instead_of_hash = false;  // fewer than two documents
};

// Streams documents to unnamed files in the folder of the output, then writes the container in one go. Memory
// does not depend on the number of tokens or documents. Every member throws Error(io) when the disk does.
class TokenFileWriter {
 public:
  // `raw`: all pieces are one document, and no end-of-text follows it. `poll` is called now and then while
  // finish() copies, and may throw to give up.
  TokenFileWriter(std::filesystem::path, const Tokenizer&, bool raw, const Split&,
                  std::function<void()> poll = {});

  // Appends to the present document. `text_bytes`: UTF-8 bytes of the text these ids stand for. Throws
  // Error(data) for an id >= the vocabulary.
  void add(std::span<const std::uint32_t> ids, std::uint64_t text_bytes);
  // Ends the present document: adds end-of-text and remembers its SplitHash. Not for raw streams.
  void end_document(std::uint64_t hash);
  // The same for a document that came with its end-of-text, or has none: adds nothing.
  void end_document_as_it_is(std::uint64_t hash);
  // Forgets what add() received since the last end_document().
  void abandon_document();

  // Splits, then writes tokens (train documents first, validation last), the document table, the vocabulary
  // and the CRCs. Throws Error(data) if there is no token at all.
  TokenFileSummary finish(const TokenFileNotes&);

 private:
  struct Piece {  // a document, or (raw) what one add() brought
    std::uint64_t tokens = 0, text_bytes = 0, hash = 0;
  };
  struct Plan;       // which pieces are validation, and what the container will say
  class Checksums {  // the CRC of each MiB of a stream of bytes
   public:
    void add(std::span<const std::byte>);
    void mark() noexcept { marked_ = position_, marked_crc_ = crcs_.empty() ? 0 : crcs_.back(); }
    void go_back();  // to the mark
    std::span<const std::uint32_t> crcs() const noexcept { return crcs_; }

   private:
    std::vector<std::uint32_t> crcs_;
    std::uint64_t position_ = 0, marked_ = 0;
    std::uint32_t marked_crc_ = 0;
  };

  void record();  // the present piece
  Plan plan() const;
  void plan_tail(Plan&) const;
  void plan_hash(Plan&) const;
  void for_each_piece(const std::function<void(std::uint64_t index, const Piece&)>&) const;
  void copy_documents(const Plan&, const engine::ContainerWriter::Sink&) const;  // the document table
  void copy_tokens(const Plan&, bool validation, const engine::ContainerWriter::Sink&) const;  // of one part
  std::vector<std::uint32_t> checksums(const Plan&);                                           // of the file

  std::filesystem::path path_;
  const Tokenizer& tokenizer_;
  bool raw_;
  Split split_;
  std::uint64_t below_;  // smaller hashes are validation, unless that leaves a part without documents
  std::function<void()> poll_;
  std::uint32_t vocab_size_;
  std::size_t width_;  // bytes of a token: 2 whenever the vocabulary fits
  SpoolFile tokens_, pieces_;
  std::uint64_t piece_count_ = 0;
  Piece piece_;                          // the present one
  std::vector<std::uint16_t> narrowed_;  // ids as they are stored
  Checksums checksums_;                  // of all documents of hashes from below_ on, known while they come
};

// A token file, mapped. Ids are in [0, vocab_size()): checked for every token when the file is opened.
class TokenFile {
 public:
  // Throws Error(data) naming file and position: no token file, truncated, sizes that contradict each other,
  // a document table that falls, an id >= the vocabulary.
  explicit TokenFile(std::filesystem::path);
  // The same over bytes in memory, as ContainerReader takes them.
  TokenFile(std::span<const std::byte> bytes, std::string name);

  const std::string& path() const noexcept { return file_.path(); }
  std::uint64_t size() const noexcept { return size_; }  // tokens N
  std::uint64_t validation_from() const noexcept {
    return validation_from_;
  }  // training part [0, here), the rest
  std::uint64_t text_bytes_train() const noexcept { return text_bytes_train_; }
  std::uint64_t text_bytes_validation() const noexcept { return text_bytes_validation_; }
  std::uint32_t vocab_size() const noexcept { return vocab_size_; }
  std::uint32_t end_of_text() const noexcept { return end_of_text_; }
  std::span<const std::uint64_t> documents() const noexcept {
    return documents_;
  }  // [D+1] starts; the last is N
  std::string_view tokenizer_payload() const noexcept { return payload_; }
  // Throws Error(data) if the vocabulary is damaged, or another than vocab_size() and end_of_text() tell.
  std::unique_ptr<Tokenizer> tokenizer() const;
  const std::string& vocab_sha256() const { return file_.meta("vocab_sha256"); }
  const engine::ContainerReader& container() const noexcept { return file_; }
  // Tells whether two files hold the same tokens in the same parts: N, where validation begins, and a CRC.
  std::string fingerprint() const;

  // ids[i] = token `from + i`. Throws Error(data) past the end. Any thread; resident memory stays bounded.
  void read(std::uint64_t from, std::span<std::int32_t> ids) const;

  // Compares the CRC of each MiB of tokens, and the SHA-256 of the vocabulary after what tokenizer() checks.
  // Throws Error(data) naming the first that differs.
  void verify() const;

 private:
  void parse();
  void check_tokens() const;
  void release_pages() const noexcept;

  engine::ContainerReader file_;
  std::span<const std::byte> tokens_;
  std::size_t width_ = 2;
  std::uint64_t size_ = 0, validation_from_ = 0, text_bytes_train_ = 0, text_bytes_validation_ = 0;
  std::uint32_t vocab_size_ = 0, end_of_text_ = 0;
  std::span<const std::uint64_t> documents_;
  std::string_view payload_;
  mutable std::atomic<std::uint64_t> touched_{0};  // bytes mapped in since the last release_pages()
};

}  // namespace data
