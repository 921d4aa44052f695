#include "tools/console.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <csignal>

#include "data/text_output.h"
#include "tools/format.h"

namespace tools {
namespace {

bool inside_character(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Beginning and end: what was given stands first, what to do last.
std::string shortened(std::string text) {
  constexpr std::size_t kMost = 500, kEnd = 200;
  if (text.size() <= kMost) return text;
  std::size_t begin = kMost - kEnd, end = text.size() - kEnd;
  while (inside_character(text[begin])) begin--;
  while (inside_character(text[end])) end++;
  return text.substr(0, begin) + " [...] " + text.substr(end);
}

}  // namespace

void guard_standard_streams() {
  for (int file = 0; file <= 2; file++) {
    if (fcntl(file, F_GETFD) >= 0) continue;
    // Opened for the other direction, so that using it stays the error that it was.
    const int opened = open("/dev/null", file == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    if (opened != file && opened >= 0) close(opened);
  }
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
}

void write_out(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) data::fail_output();
}

void flush_out() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) data::fail_output();
}

void end_line() {
  pollfd ready{STDOUT_FILENO, POLLOUT, 0};
  if (::poll(&ready, 1, 0) == 1) data::write_to_stdout("\n", {});
}

void complain(std::string_view program, std::string_view what) {
  note("{}: {}\n", program, shortened(printable(what)));
}

}  // namespace tools
