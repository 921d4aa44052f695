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

// What a user can fix. what() is one line: what was given, what was expected, what to do. It may quote names
// and values out of a damaged file: who prints it escapes what would break the line (tools/console.h).
struct Error : std::runtime_error {
  explicit Error(const std::string& what, Exit code = Exit::failure) : std::runtime_error(what), code(code) {}
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
