// Lists of token ids as payloads of vocabularies hold them: " 0 100-103" is 0, 100, 101, 102, 103.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace data {

// A blank before each run of rising ids.
std::string spell_id_ranges(std::span<const std::uint32_t> ids);

// The inverse, for at most `size` ids, each below `size`. Anything else gives a list that is spelled
// otherwise.
std::vector<std::uint32_t> parse_id_ranges(std::string_view text, std::uint32_t size);

}  // namespace data
