// UTF-8: repair of arbitrary bytes, and the small helpers for text that is known to be well-formed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace data {

inline constexpr char32_t kReplacement = 0xFFFD;
inline constexpr char32_t kLastCodePoint = 0x10FFFF;

// Bytes of the character whose first byte is `lead`; the text must be well-formed.
inline std::size_t utf8_length(char lead) noexcept {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// The character at `at`, which moves past it; the text must be well-formed.
inline char32_t next_code_point(const char*& at) noexcept {
  const auto byte = [&at](int i) { return static_cast<char32_t>(static_cast<unsigned char>(at[i])); };
  const char32_t lead = byte(0);
  if (lead < 0x80) return at += 1, lead;
  if (lead < 0xE0) {
    const char32_t c = (lead & 0x1F) << 6 | (byte(1) & 0x3F);
    return at += 2, c;
  }
  if (lead < 0xF0) {
    const char32_t c = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    return at += 3, c;
  }
  const char32_t c = (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  return at += 4, c;
}

// The character that ends before `at`, which moves to its first byte; the text must be well-formed.
inline char32_t previous_code_point(const char*& at) noexcept {
  do --at;
  while ((static_cast<unsigned char>(*at) & 0xC0) == 0x80);
  const char* forward = at;
  return next_code_point(forward);
}

// Writes at most 4 bytes at `to` and returns their number. `c` is a scalar value.
inline std::size_t put_utf8(char* to, char32_t c) noexcept {
  if (c < 0x80) return to[0] = static_cast<char>(c), 1;
  const auto tail = [c](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x800) return to[0] = static_cast<char>(0xC0 | c >> 6), to[1] = tail(0), 2;
  if (c < 0x10000) return to[0] = static_cast<char>(0xE0 | c >> 12), to[1] = tail(6), to[2] = tail(0), 3;
  return to[0] = static_cast<char>(0xF0 | c >> 18), to[1] = tail(12), to[2] = tail(6), to[3] = tail(0), 4;
}

inline void append_utf8(std::string& text, char32_t c) {
  char bytes[4];
  text.append(bytes, put_utf8(bytes, c));
}

// Bytes of the longest well-formed beginning of `bytes` (Unicode 15, table 3-7: no overlong forms, no
// surrogates, nothing beyond U+10FFFF). Equal to bytes.size() exactly when all of it is well-formed.
std::size_t well_formed_prefix(std::string_view bytes) noexcept;
inline bool is_well_formed(std::string_view bytes) noexcept {
  return well_formed_prefix(bytes) == bytes.size();
}

// Turns a stream of bytes into well-formed UTF-8: each maximal ill-formed part becomes one U+FFFD (Unicode
// 15, 3.9, as WHATWG's decoder and Python's errors="replace"). The result does not depend on how the stream
// is cut into pieces.
class Utf8Repair {
 public:
  // `strip_bom`: one U+FEFF at the very start of the stream is left out.
  explicit Utf8Repair(bool strip_bom = true) noexcept : strip_bom_(strip_bom) {}
  // Appends to `out` what is settled; at most 3 bytes of an unfinished character are kept for the next call.
  void push(std::string_view bytes, std::string& out);
  // Ends the stream: an unfinished character becomes U+FFFD. The object is then as new, but goes on counting.
  void finish(std::string& out);
  std::uint64_t replacements() const noexcept {
    return replacements_;
  }  // U+FFFD written for ill-formed parts

 private:
  void append(std::string_view well_formed, std::string& out);
  void replace(std::string& out);

  bool strip_bom_;
  bool at_start_ = true;
  std::string unfinished_;
  std::uint64_t replacements_ = 0;
};

// The whole of `bytes` at once, a byte order mark included; adds to *replacements when given.
std::string repair_utf8(std::string_view bytes, std::uint64_t* replacements = nullptr);

}  // namespace data
