// A file that appears whole or not at all: written beside its final name, flushed to the disk, then renamed.
#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace engine {

// Removes the files PATH.tmp.PID whose process is gone: what runs left that were killed while they wrote.
void remove_left_overs(const std::filesystem::path& path);

class DurableFile {
 public:
  // Opens PATH.tmp.PID in the folder of `path`, after removing the left-overs of processes that are gone.
  // Throws Error(usage) if `path` exists and is no regular file, Error(io) if the folder is not writable.
  explicit DurableFile(std::filesystem::path path);
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;
  ~DurableFile();  // without commit(): removes what was written

  void write(std::span<const std::byte> bytes);  // throws Error(io)
  // Writes over the start of what was written. Throws Error(io).
  void write_start(std::span<const std::byte> bytes);
  void commit();  // flush, fsync, rename, fsync the folder; throws Error(io)
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  [[noreturn]] void fail_io(const char* doing) const;

  std::filesystem::path path_;
  std::string temporary_;
  int file_ = -1;
};

}  // namespace engine
