// SHA-256 in hexadecimal (64 lower-case digits).
#pragma once
#include <string>
#include <string_view>

namespace data {

std::string sha256_hex(std::string_view bytes);

}  // namespace data
