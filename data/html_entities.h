// The named characters of HTML.
#pragma once
#include <cstdint>
#include <string_view>

namespace data {

// The character that "&NAME;" stands for; 0 where HTML 4 knows none (and "apos").
char32_t html_entity(std::string_view name) noexcept;

}  // namespace data
