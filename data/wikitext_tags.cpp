// Tags and entities of wikitext.
#include <algorithm>

#include "data/html_entities.h"
#include "data/utf8.h"
#include "data/wikitext.h"
#include "data/xml_text.h"

namespace data {
namespace {

constexpr std::size_t kTagBytes = 2 << 10;        // a longer one is none
constexpr std::size_t kElementBytes = 256 << 10;  // up to its end tag; a longer one has none
constexpr std::size_t kNameBytes = 20;

enum class Tag : std::uint8_t {
  part,     // of the text around it
  line,     // ends a line
  dropped,  // with all up to its end tag
  literal,  // no markup up to its end tag
};
struct Element {
  std::string_view name;
  Tag tag;
};
using enum Tag;

// In lower case, sorted. Other names are no tags.
constexpr Element kElements[] = {
    {"abbr", part},
    {"b", part},
    {"bdi", part},
    {"bdo", part},
    {"big", part},
    {"blockquote", line},
    {"br", line},
    {"caption", line},
    {"categorytree", dropped},
    {"ce", dropped},
    {"center", line},
    {"charinsert", dropped},
    {"chem", dropped},
    {"cite", part},
    {"code", part},
    {"dd", line},
    {"del", part},
    {"dfn", part},
    {"div", line},
    {"dl", line},
    {"dt", line},
    {"em", part},
    {"font", part},
    {"gallery", dropped},
    {"graph", dropped},
    {"h1", line},
    {"h2", line},
    {"h3", line},
    {"h4", line},
    {"h5", line},
    {"h6", line},
    {"hiero", dropped},
    {"hr", line},
    {"i", part},
    {"imagemap", dropped},
    {"includeonly", dropped},
    {"indicator", dropped},
    {"inputbox", dropped},
    {"ins", part},
    {"kbd", part},
    {"li", line},
    {"mapframe", dropped},
    {"maplink", dropped},
    {"mark", part},
    {"math", dropped},
    {"noinclude", part},
    {"nowiki", literal},
    {"ol", line},
    {"onlyinclude", part},
    {"p", line},
    {"poem", line},
    {"pre", literal},
    {"q", part},
    {"rb", part},
    {"ref", dropped},
    {"references", dropped},
    {"rp", part},
    {"rt", part},
    {"rtc", part},
    {"ruby", part},
    {"s", part},
    {"samp", part},
    {"score", dropped},
    {"section", part},
    {"small", part},
    {"source", dropped},
    {"span", part},
    {"strike", part},
    {"strong", part},
    {"sub", part},
    {"sup", part},
    {"syntaxhighlight", dropped},
    {"table", dropped},
    {"tbody", part},
    {"td", part},
    {"templatedata", dropped},
    {"templatestyles", dropped},
    {"tfoot", part},
    {"th", part},
    {"thead", part},
    {"timeline", dropped},
    {"tr", line},
    {"tt", part},
    {"u", part},
    {"ul", line},
    {"var", part},
    {"wbr", part},
};
static_assert(std::ranges::is_sorted(kElements, {}, &Element::name));

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_name_byte(char c) { return is_letter(c) || (c >= '0' && c <= '9'); }

// The name that `text` begins with, in lower case, "" where it is too long for one of kElements.
std::string tag_name(std::string_view text) {
  std::string name;
  for (const char c : text.substr(0, kNameBytes)) {
    if (!is_name_byte(c)) return name;
    name.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c);
  }
  return {};
}

}  // namespace

std::size_t WikitextCleaner::tag(std::string_view rest, bool last) {
  if (rest.starts_with("<!--")) {
    in_comment_ = true;
    return 4;
  }
  const bool closes = rest.starts_with("</");
  const std::string name = tag_name(rest.substr(closes ? 2 : 1));
  const auto* const found = std::ranges::lower_bound(kElements, std::string_view(name), {}, &Element::name);
  const std::size_t behind = name.size() + (closes ? 2 : 1);
  if (found == std::end(kElements) || found->name != name || behind >= rest.size() ||
      std::string_view(" \t\n/>").find(rest[behind]) == std::string_view::npos) {
    put("<");
    return 1;
  }
  const std::size_t end = rest.substr(0, kTagBytes).find('>', behind);
  if (end == rest.npos) {
    if (!last && rest.size() < kTagBytes) return kNeedMore;
    put("<");
    return 1;
  }
  const bool empty = rest[end - 1] == '/';
  if (found->tag == line) {
    end_line();
  } else if (!closes && !empty && found->tag != part) {
    return element(rest, end + 1, static_cast<std::size_t>(found - std::begin(kElements)), last);
  } else if (found->tag == dropped) {
    note_drop();
  }
  return end + 1;
}

// From a start tag to its end tag. Without an end tag the start tag alone is dropped.
std::size_t WikitextCleaner::element(std::string_view rest, std::size_t tag_bytes, std::size_t kind,
                                     bool last) {
  const Element& wanted = kElements[kind];
  const std::string_view seen = rest.substr(0, tag_bytes + kElementBytes);
  no_end_before_.resize(std::size(kElements));
  std::uint64_t& no_end_before = no_end_before_[kind];
  std::size_t at = tag_bytes;
  if (no_end_before > position_ + at) at = std::min<std::size_t>(no_end_before - position_, seen.size());
  for (;; at += 2) {
    at = seen.find("</", at);
    if (at == seen.npos) break;
    if (tag_name(seen.substr(at + 2)) != wanted.name) continue;
    const std::size_t end = seen.find('>', at);
    if (end == seen.npos) break;
    const std::string_view content = seen.substr(tag_bytes, at - tag_bytes);
    if (wanted.tag == literal) put_literal(content);
    else note_drop();
    return end + 1;
  }
  if (!last && seen.size() < tag_bytes + kElementBytes) return kNeedMore;
  constexpr std::size_t kCut = 64;  // an end tag may be cut there
  const std::size_t searched = at == seen.npos ? seen.size() - std::min(seen.size(), kCut) : at;
  no_end_before = std::max(no_end_before, position_ + searched);
  return tag_bytes;
}

std::size_t WikitextCleaner::entity(std::string_view rest) {
  at_line_start_ = false;
  if (const std::size_t used = decode_xml_entity(rest, out_); used > 0) return used;
  const std::size_t end = rest.substr(0, 12).find(';');
  const char32_t c = end == rest.npos ? 0 : html_entity(rest.substr(1, end - 1));
  if (c == 0) {
    put("&");
    return 1;
  }
  append_utf8(out_, c);
  return end + 1;
}

void WikitextCleaner::put_literal(std::string_view text) {
  while (!text.empty()) {
    const std::size_t plain = std::min(text.find_first_of("&\xFE\xFF"), text.size());
    put(text.substr(0, plain));
    text.remove_prefix(plain);
    if (text.empty()) return;
    std::size_t used = 1;
    if (text.front() == '&') used = entity(text);
    else put("\xC0");
    text.remove_prefix(used);
  }
}

}  // namespace data
