#include "data/utf8.h"

#include <cstring>

namespace data {
namespace {

// The beginning of some bytes: a character, a maximal ill-formed part, or an unfinished character that is all
// there is.
struct Part {
  enum class Kind : std::uint8_t { character, ill_formed, unfinished } kind;
  std::size_t bytes;
};

// Unicode 15, table 3-7. `size` > 0.
Part first_part(const char* bytes, std::size_t size) noexcept {
  const auto at = [bytes](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return {Part::Kind::character, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Part::Kind::ill_formed, 1};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte alone keeps out overlong forms, surrogates and what lies beyond U+10FFFF.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == size) return {Part::Kind::unfinished, i};
    const bool fits = i == 1 ? low <= at(1) && at(1) <= high : (at(i) & 0xC0) == 0x80;
    if (!fits) return {Part::Kind::ill_formed, i};
  }
  return {Part::Kind::character, length};
}

constexpr std::string_view kBom = "\xEF\xBB\xBF";

}  // namespace

std::size_t well_formed_prefix(std::string_view text) noexcept {
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  const char* at = begin;
  while (at != end) {
    std::uint64_t eight;
    if (end - at >= 8) {
      std::memcpy(&eight, at, 8);
      if ((eight & 0x8080808080808080) == 0) {
        at += 8;
        continue;
      }
      // Two characters E1..EC or EE..EF (nearly all Han) with their tails: no special case among them.
      const auto ordinary = [](unsigned char lead) { return lead > 0xE0 && lead < 0xF0 && lead != 0xED; };
      if ((eight & 0x0000C0C0F0C0C0F0) == 0x00008080E08080E0 && ordinary(static_cast<unsigned char>(at[0])) &&
          ordinary(static_cast<unsigned char>(at[3]))) {
        at += 6;
        continue;
      }
    }
    const Part part = first_part(at, static_cast<std::size_t>(end - at));
    if (part.kind != Part::Kind::character) break;
    at += part.bytes;
  }
  return static_cast<std::size_t>(at - begin);
}

void Utf8Repair::append(std::string_view well_formed, std::string& out) {
  if (well_formed.empty()) return;
  if (at_start_ && strip_bom_ && well_formed.starts_with(kBom)) well_formed.remove_prefix(kBom.size());
  at_start_ = false;
  out += well_formed;
}

void Utf8Repair::replace(std::string& out) {
  at_start_ = false;
  ++replacements_;
  append_utf8(out, kReplacement);
}

void Utf8Repair::push(std::string_view bytes, std::string& out) {
  while (!unfinished_.empty() && !bytes.empty()) {
    unfinished_ += bytes.front();
    const Part part = first_part(unfinished_.data(), unfinished_.size());
    if (part.kind == Part::Kind::ill_formed) {  // the new byte is not part of it
      unfinished_.clear();
      replace(out);
      continue;
    }
    bytes.remove_prefix(1);
    if (part.kind == Part::Kind::unfinished) continue;
    append(unfinished_, out);
    unfinished_.clear();
  }
  while (!bytes.empty()) {
    const std::size_t good = well_formed_prefix(bytes);
    append(bytes.substr(0, good), out);
    bytes.remove_prefix(good);
    if (bytes.empty()) break;
    const Part part = first_part(bytes.data(), bytes.size());
    if (part.kind == Part::Kind::unfinished) {
      unfinished_ = bytes;
      break;
    }
    replace(out);
    bytes.remove_prefix(part.bytes);
  }
}

void Utf8Repair::finish(std::string& out) {
  if (!unfinished_.empty()) replace(out);
  unfinished_.clear();
  at_start_ = true;
}

std::string repair_utf8(std::string_view bytes, std::uint64_t* replacements) {
  Utf8Repair repair(false);
  std::string text;
  text.reserve(bytes.size());
  repair.push(bytes, text);
  repair.finish(text);
  if (replacements != nullptr) *replacements += repair.replacements();
  return text;
}

}  // namespace data
