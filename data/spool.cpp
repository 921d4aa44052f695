#include "data/spool.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "engine/error.h"

namespace data {
namespace {

constexpr std::size_t kBufferBytes = 1 << 20;

[[noreturn]] void fail_io(const std::filesystem::path& folder, const char* doing) {
  engine::fail(engine::Exit::io, "{}: {} failed: {}; free some space or choose another folder for -o",
               folder.string(), doing, std::strerror(errno));
}

int open_unnamed(const std::filesystem::path& folder) {
  int file = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (file >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return file;
  std::string name = (folder / "prepare.tmp.XXXXXX").string();  // a file system without O_TMPFILE
  file = ::mkostemp(name.data(), O_CLOEXEC);
  if (file >= 0) ::unlink(name.c_str());
  return file;
}

}  // namespace

SpoolFile::SpoolFile(const std::filesystem::path& folder) : folder_(folder.empty() ? "." : folder) {
  file_ = open_unnamed(folder_);
  if (file_ < 0) fail_io(folder_, "making a temporary file");
  buffer_.reserve(kBufferBytes);
}

SpoolFile::~SpoolFile() {
  if (file_ >= 0) ::close(file_);
}

void SpoolFile::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto part = bytes.first(std::min(bytes.size(), kBufferBytes - buffer_.size()));
    buffer_.insert(buffer_.end(), part.begin(), part.end());
    bytes = bytes.subspan(part.size());
    if (buffer_.size() == kBufferBytes) flush();
  }
}

void SpoolFile::flush() {
  for (std::size_t done = 0; done < buffer_.size();) {
    const ssize_t n =
        ::pwrite(file_, buffer_.data() + done, buffer_.size() - done, static_cast<off_t>(written_ + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail_io(folder_, "writing a temporary file");
    done += static_cast<std::size_t>(n);
  }
  written_ += buffer_.size();
  buffer_.clear();
}

void SpoolFile::truncate(std::uint64_t size) {
  if (size >= written_) {
    buffer_.resize(std::min<std::size_t>(buffer_.size(), size - written_));
    return;
  }
  buffer_.clear();
  if (::ftruncate(file_, static_cast<off_t>(size)) != 0) fail_io(folder_, "cutting a temporary file");
  written_ = size;
}

void SpoolFile::read(std::uint64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t n = ::pread(file_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail_io(folder_, "reading a temporary file");
    offset += static_cast<std::uint64_t>(n);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

}  // namespace data
