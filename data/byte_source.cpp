#include "data/byte_source.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "engine/error.h"

namespace data {
namespace {

using engine::Exit;
using engine::fail;
using engine::require;

class FileSource final : public ByteSource {
 public:
  FileSource(const std::string& name, std::function<void()> poll) : poll_(std::move(poll)) {
    const bool standard = name == "-";
    name_ = standard ? "standard input" : name;
    file_ = standard ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : ::open(name.c_str(), O_RDONLY | O_CLOEXEC);
    require(file_ >= 0, Exit::data,
            "{}: cannot be opened: {}; give an existing file, a folder, or - for standard input", name_,
            std::strerror(errno));
    struct stat status {};
    if (::fstat(file_, &status) == 0 && S_ISDIR(status.st_mode)) {
      ::close(file_);
      fail(Exit::data, "{}: is a folder, a file is expected", name_);
    }
  }
  ~FileSource() override { ::close(file_); }

  std::size_t read(std::span<std::byte> bytes) override {
    for (;;) {
      if (poll_) poll_();
      pollfd wanted{file_, POLLIN, 0};
      if (::poll(&wanted, 1, 100) <= 0) continue;
      const ssize_t n = ::read(file_, bytes.data(), bytes.size());
      if (n >= 0) {
        offset_ += static_cast<std::uint64_t>(n);
        return static_cast<std::size_t>(n);
      }
      if (errno != EINTR && errno != EAGAIN)
        fail(Exit::data, "{}: cannot be read at byte {}: {}", name_, offset_, std::strerror(errno));
    }
  }

 private:
  std::string name_;
  std::function<void()> poll_;
  int file_ = -1;
  std::uint64_t offset_ = 0;
};

class SpoolSource final : public ByteSource {
 public:
  explicit SpoolSource(const SpoolFile& spool) : spool_(spool) {}
  std::size_t read(std::span<std::byte> bytes) override {
    const auto part = bytes.first(std::min<std::uint64_t>(bytes.size(), spool_.size() - offset_));
    spool_.read(offset_, part);
    offset_ += part.size();
    return part.size();
  }

 private:
  const SpoolFile& spool_;
  std::uint64_t offset_ = 0;
};

class CopyingSource final : public ByteSource {
 public:
  CopyingSource(std::unique_ptr<ByteSource> source, SpoolFile& copy)
      : source_(std::move(source)), copy_(copy) {}
  std::size_t read(std::span<std::byte> bytes) override {
    const std::size_t count = source_->read(bytes);
    copy_.append(bytes.first(count));
    return count;
  }

 private:
  std::unique_ptr<ByteSource> source_;
  SpoolFile& copy_;
};

class PrependedSource final : public ByteSource {
 public:
  PrependedSource(std::vector<std::byte> head, std::unique_ptr<ByteSource> rest)
      : head_(std::move(head)), rest_(std::move(rest)) {}
  std::size_t read(std::span<std::byte> bytes) override {
    if (given_ == head_.size()) return rest_->read(bytes);
    const std::size_t count = std::min(bytes.size(), head_.size() - given_);
    std::copy_n(head_.begin() + static_cast<std::ptrdiff_t>(given_), count, bytes.begin());
    given_ += count;
    return count;
  }

 private:
  std::vector<std::byte> head_;
  std::size_t given_ = 0;
  std::unique_ptr<ByteSource> rest_;
};

class GzipSource final : public ByteSource {
 public:
  GzipSource(std::unique_ptr<ByteSource> packed, std::string name, std::function<void(std::string)> warn)
      : packed_(std::move(packed)), name_(std::move(name)), warn_(std::move(warn)), buffer_(kBufferBytes) {
    constexpr int kGzipOnly = 16;
    require(::inflateInit2(&stream_, MAX_WBITS + kGzipOnly) == Z_OK, Exit::memory,
            "{}: no memory to unpack gzip data", name_);
  }
  ~GzipSource() override { ::inflateEnd(&stream_); }

  std::size_t read(std::span<std::byte> bytes) override {
    stream_.next_out = reinterpret_cast<Bytef*>(bytes.data());
    stream_.avail_out = static_cast<uInt>(std::min<std::size_t>(bytes.size(), 1u << 30));
    const uInt room = stream_.avail_out;
    while (!ended_ && stream_.avail_out == room) {
      require(fill(), Exit::data, "{}: gzip data end early, at byte {}; the file is cut off, fetch it again",
              name_, offset());
      const int result = ::inflate(&stream_, Z_NO_FLUSH);
      if (result == Z_STREAM_END) next_member();
      else if (result == Z_DATA_ERROR || result == Z_NEED_DICT)
        fail(Exit::data, "{}: gzip data are damaged at byte {}: {}; fetch the file again", name_, offset(),
             reason());
      else if (result == Z_MEM_ERROR) fail(Exit::memory, "{}: no memory to unpack gzip data", name_);
    }
    return room - stream_.avail_out;
  }

 private:
  static constexpr std::size_t kBufferBytes = 256 << 10;

  std::uint64_t offset() const { return taken_ - stream_.avail_in; }  // of the next packed byte
  std::string reason() const {
    const std::string_view said = stream_.msg != nullptr ? stream_.msg : "unknown reason";
    return said == "incorrect data check" ? "wrong CRC" : std::string(said);
  }

  bool fill() {
    if (stream_.avail_in > 0) return true;
    const std::size_t count = packed_->read(buffer_);
    stream_.next_in = reinterpret_cast<Bytef*>(buffer_.data());
    stream_.avail_in = static_cast<uInt>(count);
    taken_ += count;
    return count > 0;
  }

  bool next_byte(unsigned char& byte) {
    if (!fill()) return false;
    byte = *stream_.next_in++;
    --stream_.avail_in;
    return true;
  }

  // After a member: another one, the end, zeros up to the end, or something that is no gzip data.
  void next_member() {
    const std::uint64_t at = offset();
    unsigned char first = 0, second = 0;
    const bool any = next_byte(first);
    if (any && first == 0x1f && next_byte(second) && second == 0x8b) {
      require(::inflateReset(&stream_) == Z_OK, Exit::failure, "{}: zlib cannot start the member at byte {}",
              name_, at);
      unsigned char magic[2] = {first, second};
      Bytef* const next = stream_.next_in;
      const uInt left = stream_.avail_in;
      stream_.next_in = magic;
      stream_.avail_in = sizeof magic;
      ::inflate(&stream_, Z_NO_FLUSH);
      stream_.next_in = next;
      stream_.avail_in = left;
      return;
    }
    ended_ = true;
    if (!any) return;
    unsigned char byte = first;
    do {
      if (byte == 0) continue;
      warn_(fmt::format("{}: bytes after the gzip data, from byte {} on, are ignored", name_, at));
      return;
    } while (next_byte(byte));
  }

  std::unique_ptr<ByteSource> packed_;
  std::string name_;
  std::function<void(std::string)> warn_;
  std::vector<std::byte> buffer_;
  z_stream stream_{};
  std::uint64_t taken_ = 0;  // packed bytes that came into the buffer
  bool ended_ = false;
};

}  // namespace

std::unique_ptr<ByteSource> open_file(const std::string& name, std::function<void()> poll) {
  return std::make_unique<FileSource>(name, std::move(poll));
}

std::unique_ptr<ByteSource> open_spool(const SpoolFile& spool) {
  return std::make_unique<SpoolSource>(spool);
}

std::unique_ptr<ByteSource> copying(std::unique_ptr<ByteSource> source, SpoolFile& copy) {
  return std::make_unique<CopyingSource>(std::move(source), copy);
}

std::unique_ptr<ByteSource> gunzip(std::unique_ptr<ByteSource> packed, std::string name,
                                   std::function<void(std::string)> warn) {
  return std::make_unique<GzipSource>(std::move(packed), std::move(name), std::move(warn));
}

std::unique_ptr<ByteSource> prepend(std::vector<std::byte> head, std::unique_ptr<ByteSource> rest) {
  return std::make_unique<PrependedSource>(std::move(head), std::move(rest));
}

}  // namespace data
