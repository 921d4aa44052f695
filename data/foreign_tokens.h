// Token ids in the files of other programs: llm.c's and nanoGPT's, read and written, and NumPy arrays,
// written (docs/reference.md, "Formats of other programs").
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace data {

enum class TokenFormat : std::uint8_t {
  llmc,     // 256 int32: magic, version, count, zeros; then ids of 16 bits (20240520, 1) or 32 (20240801, 7)
  nanogpt,  // ids of 16 bits and nothing else
  npy,      // NumPy's array of one axis
};

// The ids of a file in llm.c's or nanoGPT's format, from the first to the last through a buffer of fixed
// size.
class ForeignTokens {
 public:
  // Opens the file and compares its header with its size. Ids must be below `vocab_size`. Throws Error(data)
  // naming the file: missing, no regular file, empty, truncated, of another format or byte order.
  ForeignTokens(const std::filesystem::path&, TokenFormat, std::uint32_t vocab_size);
  ForeignTokens(const ForeignTokens&) = delete;
  ForeignTokens& operator=(const ForeignTokens&) = delete;

  std::uint64_t size() const noexcept { return size_; }    // tokens
  std::uint64_t bytes() const noexcept { return bytes_; }  // of the file
  // The ids that follow, none at the end; valid until the next call. Throws Error(data) naming the offset of
  // an id >= vocab_size, or where the file has become shorter since it was opened, and Error(io).
  std::span<const std::uint32_t> next();

 private:
  struct Descriptor {  // of an open file
    ~Descriptor();
    int number = -1;
  };
  void open();
  void read(std::uint64_t offset, std::span<std::byte> into) const;
  void parse(TokenFormat);
  void check_ids() const;

  std::string path_;
  std::uint32_t vocab_size_;
  Descriptor file_;
  std::uint64_t bytes_ = 0, header_ = 0, size_ = 0, done_ = 0;  // done_: tokens before ids_
  std::size_t width_ = 2;                                       // bytes of an id
  std::vector<std::byte> buffer_;
  std::vector<std::uint32_t> ids_;
};

// What stands before `count` ids of `width` bytes in a file of the format. Throws Error(usage) where the
// format cannot hold them.
std::string header_of(TokenFormat, std::size_t width, std::uint64_t count);

}  // namespace data
