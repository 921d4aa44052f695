// What the fuzz targets share: checks, bytes as a source, containers with the right checksum, documents.
#pragma once
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "data/byte_source.h"
#include "data/document_reader.h"
#include "engine/error.h"
#include "tests/fuzz/targets.h"
#include "tools/format.h"

namespace tests::fuzz {

struct Broken : std::logic_error {
  using std::logic_error::logic_error;
};
inline void hold(bool holds, const char* what) {
  if (!holds) throw Broken(what);
}

// Holds if `message` can be shown as one line.
void hold_one_line(std::string_view message);

// Runs `parse`; false if it refuses with an Error, whose message must be one line.
template <class F> bool taken(F&& parse) {
  try {
    parse();
    return true;
  } catch (const engine::Error& error) {
    hold_one_line(tools::printable(error.what()));
    return false;
  }
}

inline std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline Bytes bytes_of(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

// The first byte and the rest: the byte chooses how a target reads the rest. 0 where there is none.
struct Chosen {
  explicit Chosen(Bytes bytes)
      : choice(bytes.empty() ? std::uint8_t{0} : static_cast<std::uint8_t>(bytes[0])),
        rest(bytes.subspan(bytes.empty() ? 0 : 1)) {}
  std::uint8_t choice;
  Bytes rest;
};

// A container out of an input, at an address that is a multiple of 8. Its first byte says what the rest is:
//   h  a header's text, NUL, data: length, padding and header_crc32 are made right
//   c  a whole file, whose header_crc32 is made right
//   f  a whole file as it is (and so for every other byte)
std::vector<std::byte> container_of(Bytes);

// The bytes, given out at most `piece` at a time.
std::unique_ptr<data::ByteSource> source_of(Bytes, std::size_t piece);

// The first kMostBytes, read `room` at a time: a bomb must not take long.
inline constexpr std::size_t kMostBytes = 1 << 20;
std::string read_from(data::ByteSource&, std::size_t room);

// The bytes as a file without a name that has a path while this lives.
class NamelessFile {
 public:
  explicit NamelessFile(Bytes);
  NamelessFile(const NamelessFile&) = delete;
  NamelessFile& operator=(const NamelessFile&) = delete;
  ~NamelessFile();
  std::string path() const;

 private:
  int file_;
};

// Everything that a reader handed on, a line for each event.
class Events final : public data::DocumentSink {
 public:
  void begin() override;
  void text(std::string_view piece) override;
  void end(std::string_view title) override;
  void abandon() override;
  void skip(std::string_view reason) override;
  void warn(std::string line) override;
  const std::string& all() const;  // no document is open

 private:
  std::string all_, text_;
  bool open_ = false;
};

using Reader = void (*)(data::Input&, const data::ReaderOptions&, data::DocumentSink&);
// Reads the documents of `bytes` with a window of `window` bytes and a source that gives at most `piece`
// bytes at a time; only the first `limit` bytes.
std::string events_of(Bytes bytes, std::size_t window, std::size_t piece, std::uint64_t limit, Reader read,
                      const data::ReaderOptions& options);

// Reads `bytes` with a wide window and with a narrow one that `choice` gives; both must hand on the same.
// Readers look ahead, so this compares only where no run of blanks fills half the narrow window.
bool same_for_every_window(Bytes bytes, std::uint8_t choice, Reader read, const data::ReaderOptions& options);

}  // namespace tests::fuzz
