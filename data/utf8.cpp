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

bool is_continuation(char byte) noexcept { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

constexpr std::ptrdiff_t kLongest = 4;  // bytes of a character
constexpr std::ptrdiff_t kBlock = 64;

// Whether kBlock bytes go on well after the at least kLongest bytes before them, which are well-formed but
// for an unfinished character. Without branches and in bytes only, so that the compiler makes vectors of it.
bool is_well_formed_block(const char* block) noexcept {
  using Byte = unsigned char;
  const auto* bytes = reinterpret_cast<const Byte*>(block);
  Byte wrong = 0;
  for (std::ptrdiff_t i = 0; i < kBlock; ++i) {
    const Byte byte = bytes[i], before = bytes[i - 1];
    const Byte continues = (byte & 0xC0) == 0x80;
    const Byte expected = Byte(before >= 0xC0) | Byte(bytes[i - 2] >= 0xE0) | Byte(bytes[i - 3] >= 0xF0);
    const Byte outside = Byte((byte & 0xFE) == 0xC0) | Byte(byte > 0xF4);
    const Byte overlong =
        (Byte(before == 0xE0) & Byte(byte < 0xA0)) | (Byte(before == 0xF0) & Byte(byte < 0x90));
    const Byte too_high =
        (Byte(before == 0xED) & Byte(byte > 0x9F)) | (Byte(before == 0xF4) & Byte(byte > 0x8F));
    wrong |= Byte(continues ^ expected) | outside | overlong | too_high;
  }
  return wrong == 0;
}

constexpr std::string_view kBom = "\xEF\xBB\xBF";

}  // namespace

std::size_t well_formed_prefix(std::string_view text) noexcept {
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  const char* at = begin;
  while (at != end) {
    if (at - begin >= kLongest && end - at >= kBlock && is_well_formed_block(at)) {
      do at += kBlock;
      while (end - at >= kBlock && is_well_formed_block(at));
      do --at;  // the last character may go on
      while (is_continuation(*at));
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
