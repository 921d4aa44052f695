// Numbers and foreign text as people read them.
#pragma once
#include <cstdint>
#include <string>

namespace tools {

std::string with_commas(std::int64_t value);  // 1,234,567
// `text` as part of a line: each byte that would break the line or steer a terminal is a question mark.
std::string printable(std::string text);

}  // namespace tools
