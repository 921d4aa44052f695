// Text that a flag names: a file, or standard input.
#pragma once
#include <string>
#include <string_view>

namespace tools {

// All bytes of `file`, or of standard input for "-", as UTF-8 (ill-formed parts become U+FFFD). Throws
// Error(data) where it cannot be read, and for one of more than `most` bytes; `advice` says what to do then.
std::string read_text(const std::string& file, std::size_t most, std::string_view advice);

}  // namespace tools
