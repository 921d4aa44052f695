#include "data/text_output.h"

#include <limits.h>
#include <poll.h>
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

}  // namespace

void fail_output() {
  if (errno == EPIPE) throw OutputClosed();
  engine::fail(engine::Exit::io, "standard output: writing failed: {}; free some space and run again",
               std::strerror(errno));
}

// A write() of more than PIPE_BUF to a pipe that has room for less would wait for its reader, deaf to
// signals. No piece ends inside a character.
void write_to_stdout(std::string_view text, const std::function<void()>& poll) {
  while (!text.empty()) {
    if (poll) poll();
    pollfd wanted{STDOUT_FILENO, POLLOUT, 0};
    if (::poll(&wanted, 1, 100) <= 0) continue;
    std::size_t size = std::min<std::size_t>(text.size(), PIPE_BUF);
    while (size > 1 && size < text.size() && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) size--;
    const ssize_t n = ::write(STDOUT_FILENO, text.data(), size);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) fail_output();
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

TextOutput::TextOutput(const std::filesystem::path& path, std::function<void()> poll)
    : poll_(std::move(poll)) {
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
  else write_to_stdout(buffer_, poll_);
  buffer_.clear();
}

void TextOutput::finish() {
  flush();
  if (file_) file_->commit();
}

}  // namespace data
