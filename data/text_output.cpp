#include "data/text_output.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>

#include "data/document_reader.h"
#include "engine/error.h"

namespace data {
namespace {

constexpr std::size_t kBufferBytes = 1 << 20;

void write_to_stdout(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EPIPE) throw OutputClosed();
    engine::require(n >= 0, engine::Exit::io, "standard output: writing failed: {}; free some space and run again",
                    std::strerror(errno));
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

}  // namespace

TextOutput::TextOutput(const std::filesystem::path& path) {
  if (path != "-") file_.emplace(path);
}

void TextOutput::end_document() {
  if (!first_) put("\n");
  first_ = false;
  for (std::string_view rest = document_; !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (is_blank_text(line)) continue;
    put(line);
    put("\n");
  }
  document_.clear();
}

void TextOutput::put(std::string_view text) {
  buffer_.append(text);
  if (buffer_.size() >= kBufferBytes) flush();
}

void TextOutput::flush() {
  if (file_) file_->write(std::as_bytes(std::span(buffer_)));
  else write_to_stdout(buffer_);
  buffer_.clear();
}

void TextOutput::finish() {
  flush();
  if (file_) file_->commit();
}

}  // namespace data
