// A temporary file without a name: it is gone when the process is, however that ends.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace data {

class SpoolFile {
 public:
  // Opens an unnamed file in `folder`. Throws Error(io) if the folder is not writable.
  explicit SpoolFile(const std::filesystem::path& folder);
  SpoolFile(const SpoolFile&) = delete;
  SpoolFile& operator=(const SpoolFile&) = delete;
  ~SpoolFile();

  std::uint64_t size() const noexcept { return written_ + buffer_.size(); }
  void append(std::span<const std::byte>);  // throws Error(io)
  void flush();                             // after it every appended byte can be read
  void truncate(std::uint64_t size);        // forgets what lies behind; throws Error(io)
  // Fills `bytes` from `offset`, which with their size must lie in what was flushed. Throws Error(io).
  void read(std::uint64_t offset, std::span<std::byte> bytes) const;

 private:
  std::filesystem::path folder_;  // for messages
  int file_ = -1;
  std::uint64_t written_ = 0;
  std::vector<std::byte> buffer_;
};

}  // namespace data
