#include "data/percent.h"

#include "data/utf8.h"

namespace data {
namespace {

int hex_digit(char c) {
  if ('0' <= c && c <= '9') return c - '0';
  if ('a' <= c && c <= 'f') return c - 'a' + 10;
  if ('A' <= c && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The byte that an escape at the start of `text` stands for, -1 if there is none.
int escaped_byte(std::string_view text) {
  if (text.size() < 3 || text[0] != '%') return -1;
  const int high = hex_digit(text[1]), low = hex_digit(text[2]);
  return high < 0 || low < 0 ? -1 : high << 4 | low;
}

// Whether more text could make an escape of `rest`, which begins none.
bool may_become_escape(std::string_view rest) {
  return rest.empty() ||
         (rest[0] == '%' && (rest.size() == 1 || (rest.size() == 2 && hex_digit(rest[1]) >= 0)));
}

// Decodes the beginning of `text` to `out` and returns how many bytes of it that took; 0: more text must come
// first.
std::size_t decode_one(std::string_view text, bool more_to_come, std::string& out) {
  std::string bytes;
  for (std::string_view rest = text; bytes.size() < 4; rest.remove_prefix(3)) {
    const int byte = escaped_byte(rest);
    if (byte < 0) {
      if (more_to_come && may_become_escape(rest)) return 0;
      break;
    }
    bytes += static_cast<char>(byte);
    if (is_well_formed(bytes)) {
      out += bytes;
      return 3 * bytes.size();
    }
    // Stop where no further byte can finish the character: repair then sees more than one part.
    if (repair_utf8(bytes) != "\xEF\xBF\xBD") break;
    if (static_cast<unsigned char>(bytes[0]) < 0xC2 || static_cast<unsigned char>(bytes[0]) > 0xF4) break;
  }
  out += text[0];
  return 1;
}

std::size_t decode(std::string_view text, bool more_to_come, std::string& out) {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t plain = std::min(text.find('%', at), text.size());
    out += text.substr(at, plain - at);
    at = plain;
    if (at == text.size()) break;
    const std::size_t taken = decode_one(text.substr(at), more_to_come, out);
    if (taken == 0) break;
    at += taken;
  }
  return at;
}

}  // namespace

std::string percent_decode(std::string_view text) {
  std::string out;
  decode(text, false, out);
  return out;
}

std::string PercentDecoder::push(std::string_view text) {
  held_ += text;
  std::string out;
  held_.erase(0, decode(held_, true, out));
  return out;
}

std::string PercentDecoder::finish() {
  std::string out;
  decode(held_, false, out);
  held_.clear();
  return out;
}

}  // namespace data
