// What `prepare` and `tokenizer train` read: files, folders and standard input, unpacked, as one window of
// bytes that moves on. Formats are told by content, never by name (docs/data.md, "Inputs").
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/byte_source.h"
#include "data/spool.h"

namespace data {

// Each folder replaced by all files below it that are not empty, in the order of their paths; "-" stays.
// Throws Error(data) for a path that does not exist and a folder without files, Error(usage) for "-" given
// twice.
std::vector<std::string> expand_inputs(const std::vector<std::string>& arguments);

// Whether `output` can be written and is none of `inputs` (what expand_inputs() gave, and other files).
// Throws Error(usage) if it is one of them, is "-" or exists and is no regular file, Error(io) if it is not
// writable.
void check_output(const std::filesystem::path& output, const std::vector<std::string>& inputs);

// Whether `file` is a regular file that begins as gzip data do.
bool is_gzip_file(const std::string& file);

struct InputOptions {
  std::size_t window = std::size_t{1} << 20;    // bytes to hold at a time
  int threads = 1;                              // that unpack bzip2 data
  bool raw = false;                             // every format is text, a byte order mark is kept
  SpoolFile* copy_of_standard_input = nullptr;  // receives what is read from standard input
  const SpoolFile* standard_input = nullptr;    // flushed; read in place of standard input
  std::function<void()> poll = {};              // called often while waiting, by any thread; may throw
};

enum class InputFormat : std::uint8_t { plain_text, abstract_xml, pages_xml, wikiextractor, json };

// One input. The constructor reads its beginning and throws Error(data) for what is empty, packed other than
// by gzip, of a format that is not read, or no UTF-8; the message says what to do instead.
class Input {
 public:
  // `warn` receives whole lines, called by fill(). `limit`: unpacked bytes that may still be read.
  Input(const std::string& name, const InputOptions&, std::uint64_t limit,
        std::function<void(std::string)> warn);
  // The same over bytes that come from elsewhere; `name` is for messages.
  Input(std::unique_ptr<ByteSource>, std::string name, const InputOptions&, std::uint64_t limit,
        std::function<void(std::string)> warn);

  const std::string& name() const noexcept { return name_; }
  InputFormat format() const noexcept { return format_; }
  // Unread bytes held.
  std::string_view window() const noexcept { return {buffer_.data() + begin_, end_ - begin_}; }
  // Reads more behind the window. False at the end, and when the window is full.
  bool fill();
  bool at_end() const noexcept { return ended_; }  // the window holds all that is left
  void consume(std::size_t bytes) noexcept { begin_ += bytes; }
  std::uint64_t offset() const noexcept {
    return read_ - (end_ - begin_);
  }  // unpacked bytes before the window
  std::uint64_t bytes_read() const noexcept { return read_; }
  bool limited() const noexcept { return limited_; }  // ended by the limit, there was more

 private:
  struct Opened {
    std::unique_ptr<ByteSource> source;
    // Set when nobody reads on, so that a thread that waits for the source ends.
    std::shared_ptr<std::atomic<bool>> closed = std::make_shared<std::atomic<bool>>(false);
  };
  static Opened open(const std::string& name, const InputOptions&);
  Input(Opened, std::string name, const InputOptions&, std::uint64_t limit,
        std::function<void(std::string)> warn);
  void sniff(bool raw);

  std::string name_;
  std::unique_ptr<ByteSource> source_;
  std::uint64_t limit_, read_ = 0;
  std::vector<char> buffer_;
  std::size_t begin_ = 0, end_ = 0;
  bool ended_ = false, limited_ = false;
  InputFormat format_ = InputFormat::plain_text;
};

}  // namespace data
