// How failures travel: an Error carries one line for the user and the program's exit code
// (docs/reference.md).
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace engine {

enum class Exit : int {
  failure = 1,
  usage = 2,       // a flag, or a combination of them
  data = 3,        // an input or token file
  checkpoint = 4,  // a checkpoint or tokenizer file
  diverged = 5,    // a non-finite value
  memory = 6,
  io = 7,    // output not writable, disk full
  comm = 8,  // a rank was lost
  gpu = 9,
};

// `text` with a blank for each control character: names and values out of a damaged file may hold line ends
// and terminal sequences.
inline std::string one_line(std::string text) {
  for (char& c : text)
    if ((c >= 0 && c < ' ') || c == 0x7F) c = ' ';
  return text;
}

// What a user can fix. what() is one line: what was given, what was expected, what to do.
struct Error : std::runtime_error {
  explicit Error(const std::string& what, Exit code = Exit::failure)
      : std::runtime_error(one_line(what)), code(code) {}
  Exit code;
};

// What the machine did: a failed launch, exhausted memory, a broken collective. Names the op.
struct DeviceError : Error {
  using Error::Error;
};

template <class... A> [[noreturn]] void fail(Exit code, fmt::format_string<A...> format, A&&... a) {
  throw Error(fmt::format(format, std::forward<A>(a)...), code);
}

template <class... A> void require(bool ok, Exit code, fmt::format_string<A...> format, A&&... a) {
  if (!ok) throw Error(fmt::format(format, std::forward<A>(a)...), code);
}

}  // namespace engine
