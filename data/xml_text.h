// Text and tags of the XML that dumps are made of: their producers escape every '<' of a text, so a scan for
// tags is exact.
#pragma once
#include <string>
#include <string_view>

#include "data/input.h"

namespace data {

// Appends to `out` what the entity at the start of `text` ("&amp;", "&#x4e2d;") stands for: one of XML's five
// or a number, U+FFFD for a number that is no character. Returns its bytes; 0 if there is none.
std::size_t decode_xml_entity(std::string_view text, std::string& out);

// Appends `raw` with entities decoded once, others as they are, and a line feed for each CR LF.
void decode_xml(std::string_view raw, std::string& out);

class XmlScanner {
 public:
  static constexpr std::size_t kTagBytes = 256;  // of the tags that matter

  explicit XmlScanner(Input& input) : input_(input) {}

  // Hands the text before the next '<' to `take`, in pieces that cut neither an entity nor CR LF; the window
  // then begins with that tag. False at the end.
  template <class Take> bool text_until_tag(const Take& take) {
    for (;;) {
      const std::string_view window = input_.window();
      const std::size_t tag = window.find('<');
      if (tag != window.npos) {
        take(window.substr(0, tag));
        input_.consume(tag);
        while (input_.window().size() < kTagBytes && input_.fill()) {
        }
        return true;
      }
      const std::size_t whole = input_.at_end() ? window.size() : uncut(window);
      take(window.substr(0, whole));
      input_.consume(whole);
      if (input_.at_end()) return false;
      input_.fill();
    }
  }

  // The tag at the start of the window, "<" alone where it is too long for one of interest.
  std::string_view tag() const {
    const std::string_view window = input_.window().substr(0, kTagBytes);
    return window.substr(0, window.find('>') == window.npos ? 1 : window.find('>') + 1);
  }

 private:
  // Bytes of `text` without an entity or CR LF at its end that may be unfinished.
  static std::size_t uncut(std::string_view text);

  Input& input_;
};

}  // namespace data
