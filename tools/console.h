// Standard input, output and error as every program uses them.
#pragma once
#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <string_view>

namespace tools {

// Before anything else is opened: a closed descriptor 0, 1 or 2 would be given to the next file, and what is
// meant for the user would be written into it. Also makes a closed pipe and a file size limit errors of
// write().
void guard_standard_streams();

// Appends to stdout. Throws data::OutputClosed when the reader has gone, Error(io) otherwise.
void write_out(std::string_view text);
void flush_out();  // fails for whatever was written to stdout before, too
// Ends the line of a text that a signal cut, unless that would wait for a reader.
void end_line();
// Shown at once; fails like both.
template <class... A> void print(fmt::format_string<A...> format, A&&... a) {
  write_out(fmt::format(format, std::forward<A>(a)...));
  flush_out();
}

// On stderr. Nobody may be there to read it, so a failure is no error.
template <class... A> void note(fmt::format_string<A...> format, A&&... a) {
  const std::string text = fmt::format(format, std::forward<A>(a)...);
  std::fwrite(text.data(), 1, text.size(), stderr);
}
// "program: what": one line of at most about 500 bytes, whatever `what` quotes.
void complain(std::string_view program, std::string_view what);

}  // namespace tools
