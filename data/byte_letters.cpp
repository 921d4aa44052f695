#include "data/byte_letters.h"

#include <algorithm>
#include <cstdint>

#include "data/utf8.h"

namespace data {
namespace {

constexpr char32_t kFirstOther = 0x100;

constexpr std::array<char32_t, 256> make_letters() {
  std::array<char32_t, 256> letters{};
  char32_t other = kFirstOther;
  for (char32_t byte = 0; byte < letters.size(); ++byte) {
    const bool shown = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    letters[byte] = shown ? byte : other++;
  }
  return letters;
}
constexpr auto kLetters = make_letters();
constexpr char32_t kLastLetter = *std::max_element(kLetters.begin(), kLetters.end());

constexpr std::int16_t kNoByte = -1;
constexpr auto kByteOfLetter = [] {
  std::array<std::int16_t, kLastLetter + 1> bytes{};
  bytes.fill(kNoByte);
  for (std::size_t byte = 0; byte < kLetters.size(); ++byte)
    bytes[kLetters[byte]] = static_cast<std::int16_t>(byte);
  return bytes;
}();

}  // namespace

constinit const std::array<unsigned char, 256> kBytesByLetter = [] {
  std::array<unsigned char, 256> bytes{};
  std::size_t next = 0;
  for (const std::int16_t byte : kByteOfLetter)
    if (byte != kNoByte) bytes[next++] = static_cast<unsigned char>(byte);
  return bytes;
}();

std::string spell_bytes(std::string_view bytes) {
  std::string spelling;
  for (const char byte : bytes) append_utf8(spelling, kLetters[static_cast<unsigned char>(byte)]);
  return spelling;
}

std::optional<std::string> bytes_of_spelling(std::string_view spelling) {
  if (!is_well_formed(spelling)) return {};
  std::string bytes;
  for (const char* at = spelling.data(); at != spelling.data() + spelling.size();) {
    const char32_t letter = next_code_point(at);
    if (letter > kLastLetter || kByteOfLetter[letter] == kNoByte) return {};
    bytes += static_cast<char>(kByteOfLetter[letter]);
  }
  return bytes;
}

}  // namespace data
