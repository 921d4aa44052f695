// Numbers and foreign text as people read them.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace tools {

std::string with_commas(std::int64_t value);  // 1,234,567
// `text` as part of a line of UTF-8: every byte that would break the line, steer a terminal or is no UTF-8 is
// written as \n, \t or \xHH.
std::string printable(std::string_view text);

}  // namespace tools
