// The languages of Wikipedia.
#pragma once
#include <string_view>

namespace data {

// Whether `code` ("en", "zh-yue", in lower case) is that of a Wikipedia: links to it stand beside a page, not
// in it.
bool is_wikipedia_language(std::string_view code) noexcept;

}  // namespace data
