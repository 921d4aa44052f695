// Zstandard and xz data, where their libraries were there when this was built.
#include <algorithm>

#include "data/byte_source.h"
#include "engine/error.h"
#if __has_include(<zstd.h>)
#include <zstd.h>
#endif
#if __has_include(<lzma.h>)
#include <lzma.h>
#endif

namespace data {
namespace {

using engine::Exit;
using engine::fail;
using engine::require;

// Packed bytes as a library takes them.
class Packed {
 public:
  Packed(std::unique_ptr<ByteSource> source, std::string name)
      : source_(std::move(source)), name_(std::move(name)), buffer_(256 << 10) {}

  const std::string& name() const { return name_; }
  // Goes on to the next bytes; false at the end.
  bool next() {
    size_ = source_->read(buffer_);
    taken_ += size_;
    return size_ > 0;
  }
  std::span<const std::byte> bytes() const { return std::span(buffer_).first(size_); }
  [[noreturn]] void fail_cut(const char* kind) const {
    fail(Exit::data, "{}: {} data end early, at byte {}; the file is cut off, fetch it again", name_, kind,
         taken_);
  }
  [[noreturn]] void fail_damaged(const char* kind, std::size_t left, const char* what) const {
    fail(Exit::data, "{}: {} data are damaged at byte {}: {}; fetch the file again", name_, kind,
         taken_ - left, what);
  }

 private:
  std::unique_ptr<ByteSource> source_;
  std::string name_;
  std::vector<std::byte> buffer_;
  std::size_t size_ = 0;
  std::uint64_t taken_ = 0;
};

#if __has_include(<zstd.h>)
class ZstdSource final : public ByteSource {
 public:
  ZstdSource(std::unique_ptr<ByteSource> source, std::string name)
      : packed_(std::move(source), std::move(name)) {
    require(stream_ != nullptr, Exit::memory, "{}: no memory to unpack Zstandard data", packed_.name());
  }
  ~ZstdSource() override { ::ZSTD_freeDCtx(stream_); }

  std::size_t read(std::span<std::byte> bytes) override {
    ZSTD_outBuffer out{bytes.data(), bytes.size(), 0};
    while (out.pos == 0 && out.size > 0) {
      // What the library holds back comes out before more is read.
      if (in_.pos == in_.size && !more_held_) {
        if (!packed_.next()) {
          if (inside_frame_) packed_.fail_cut("Zstandard");
          return 0;
        }
        in_ = {packed_.bytes().data(), packed_.bytes().size(), 0};
      }
      const std::size_t result = ::ZSTD_decompressStream(stream_, &out, &in_);
      if (::ZSTD_isError(result) != 0)
        packed_.fail_damaged("Zstandard", in_.size - in_.pos, ::ZSTD_getErrorName(result));
      inside_frame_ = result != 0;
      more_held_ = out.pos == out.size && inside_frame_;
    }
    return out.pos;
  }

 private:
  Packed packed_;
  ZSTD_DCtx* stream_ = ::ZSTD_createDCtx();
  ZSTD_inBuffer in_{nullptr, 0, 0};
  bool inside_frame_ = false, more_held_ = false;
};
#endif

#if __has_include(<lzma.h>)
class XzSource final : public ByteSource {
 public:
  XzSource(std::unique_ptr<ByteSource> source, std::string name)
      : packed_(std::move(source), std::move(name)) {
    constexpr std::uint64_t kMostMemory = 128 << 20;  // xz -9 needs half of it
    require(::lzma_stream_decoder(&stream_, kMostMemory, LZMA_CONCATENATED) == LZMA_OK, Exit::memory,
            "{}: no memory to unpack xz data", packed_.name());
  }
  ~XzSource() override { ::lzma_end(&stream_); }

  std::size_t read(std::span<std::byte> bytes) override {
    stream_.next_out = reinterpret_cast<std::uint8_t*>(bytes.data());
    stream_.avail_out = bytes.size();
    while (!ended_ && stream_.avail_out == bytes.size()) {
      if (stream_.avail_in == 0 && !packed_ended_) {
        packed_ended_ = !packed_.next();
        stream_.next_in = reinterpret_cast<const std::uint8_t*>(packed_.bytes().data());
        stream_.avail_in = packed_.bytes().size();
      }
      const lzma_ret result = ::lzma_code(&stream_, packed_ended_ ? LZMA_FINISH : LZMA_RUN);
      if (result == LZMA_STREAM_END) ended_ = true;
      else if (result == LZMA_BUF_ERROR && packed_ended_) packed_.fail_cut("xz");
      else if (result == LZMA_MEM_ERROR || result == LZMA_MEMLIMIT_ERROR)
        fail(Exit::memory, "{}: these xz data need more than 128 MiB to unpack; use: xz -dc {} | prepare -",
             packed_.name(), packed_.name());
      else if (result != LZMA_OK && result != LZMA_BUF_ERROR)
        packed_.fail_damaged("xz", stream_.avail_in,
                             result == LZMA_FORMAT_ERROR ? "no xz stream" : "wrong data");
    }
    return bytes.size() - stream_.avail_out;
  }

 private:
  Packed packed_;
  lzma_stream stream_ = LZMA_STREAM_INIT;
  bool packed_ended_ = false, ended_ = false;
};
#endif

[[maybe_unused]] [[noreturn]] void fail_without(const char* kind, const char* package, const char* tool,
                                                const std::string& name) {
  fail(Exit::data,
       "{}: holds {} data, and this build cannot unpack them; use: {} -dc {} | prepare -, or install {} "
       "and build again",
       name, kind, tool, name, package);
}

}  // namespace

std::unique_ptr<ByteSource> unzstd(std::unique_ptr<ByteSource> packed, std::string name) {
#if __has_include(<zstd.h>)
  return std::make_unique<ZstdSource>(std::move(packed), std::move(name));
#else
  packed.reset();
  fail_without("Zstandard", "libzstd-dev", "zstd", name);
#endif
}

std::unique_ptr<ByteSource> unxz(std::unique_ptr<ByteSource> packed, std::string name) {
#if __has_include(<lzma.h>)
  return std::make_unique<XzSource>(std::move(packed), std::move(name));
#else
  packed.reset();
  fail_without("xz", "liblzma-dev", "xz", name);
#endif
}

}  // namespace data
