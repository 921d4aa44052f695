// What `prepare --text` writes.
#pragma once
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "engine/durable_file.h"

namespace data {

struct OutputClosed {};  // thrown when the reader of standard output has gone

// For an error of writing to standard output (errno): throws OutputClosed, Error(io).
[[noreturn]] void fail_output();
// Unbuffered. `poll` is called often while standard output takes nothing, and may throw to give up. Throws
// OutputClosed, Error(io).
void write_to_stdout(std::string_view text, const std::function<void()>& poll);

class TextOutput {
 public:
  // `path`: "-" is standard output; anything else appears whole at finish(). Throws Error(usage, io).
  // `poll` as above.
  explicit TextOutput(const std::filesystem::path& path, std::function<void()> poll = {});

  void raw(std::string_view text) { put(text); }
  void add(std::string_view text) { document_.append(text); }  // to the present document
  // Writes it: blank lines in it become one LF, a blank line stands before it unless it is the first.
  void end_document();
  void abandon_document() { document_.clear(); }
  void finish();

 private:
  void put(std::string_view text);
  void flush();

  std::optional<engine::DurableFile> file_;
  std::function<void()> poll_;
  std::string document_, buffer_;
  bool first_ = true;
};

}  // namespace data
