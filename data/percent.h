// Percent-decoding of text, as URLs write it: "%e7%94%b0" is 田. What is no escape, or no well-formed UTF-8
// once decoded, stays as it is ("%9d", "100%", "+").
#pragma once
#include <string>
#include <string_view>

namespace data {

std::string percent_decode(std::string_view text);

// The same for text that arrives in pieces: an escape, or the escapes of a character, that the next piece may
// complete are held back (at most 11 bytes). What push() and finish() return, joined, is percent_decode() of
// the whole.
class PercentDecoder {
 public:
  std::string push(std::string_view text);
  std::string finish();

 private:
  std::string held_;
};

}  // namespace data
