#include "data/wikitext.h"

#include <algorithm>
#include <utility>

namespace data {
namespace {

constexpr std::size_t kLookAhead = 128;         // enough for every step, but for those that ask for more
constexpr std::size_t kTail = 8 << 10;          // of the text, which steps may still look at
constexpr std::size_t kSettled = 64 << 10;      // handed on at a time
constexpr std::size_t kHeadingBytes = 4 << 10;  // a longer line is none
constexpr std::size_t kUrlBytes = 2 << 10;
constexpr std::size_t kSeparators = 16;  // before a parenthesis, at most

constexpr std::string_view kSpecial = "\n\r\t <&'[]{}|-_)\xEF\xFE\xFF";

constexpr auto kIsSpecial = [] {
  std::array<bool, 256> special{};
  for (const char c : kSpecial) special[static_cast<unsigned char>(c)] = true;
  return special;
}();

std::size_t plain_bytes(std::string_view text) {
  std::size_t n = 0;
  while (n < text.size() && !kIsSpecial[static_cast<unsigned char>(text[n])]) ++n;
  return n;
}

std::size_t run_of(char c, std::string_view text) {
  text = text.substr(0, kLookAhead);
  return std::min(text.find_first_not_of(c), text.size());
}

constexpr std::string_view kWideOpen = "（", kWideClose = "）";

bool ends_with_parenthesis(std::string_view text) { return text.ends_with(kWideOpen) || text.ends_with('('); }

// Bytes of the separator or blank at the start of `text`, or 0.
std::size_t separator_at_start(std::string_view text) {
  if (text.empty()) return 0;
  if (text[0] == ' ' || text[0] == ',' || text[0] == ';' || text[0] == ':') return 1;
  for (const std::string_view wide : {"，", "、", "；", "："})
    if (text.starts_with(wide)) return wide.size();
  return 0;
}
std::size_t separator_at_end(std::string_view text) {
  if (text.empty()) return 0;
  if (separator_at_start(text.substr(text.size() - 1)) == 1) return 1;
  return text.size() >= 3 && separator_at_start(text.substr(text.size() - 3)) == 3 ? 3 : 0;
}

bool is_url(std::string_view text) {
  constexpr std::string_view kSchemes[] = {"http://", "https://", "//",    "ftp://",
                                           "mailto:", "news:",    "irc://"};
  return std::ranges::any_of(kSchemes, [&](std::string_view scheme) {
    const auto same = [](char a, char b) { return a == b || (a >= 'A' && a <= 'Z' && a - 'A' + 'a' == b); };
    return text.size() >= scheme.size() && std::ranges::equal(text.substr(0, scheme.size()), scheme, same);
  });
}

// Whether the line that `rest` begins with ends in view, with '='.
bool is_short_heading(std::string_view rest) {
  const std::size_t feed = rest.find('\n');
  if (feed == rest.npos && rest.size() == kLookAhead) return false;
  const std::string_view line = rest.substr(0, feed);
  return line.size() > 2 && line.substr(0, line.find_last_not_of(" \t\r") + 1).ends_with('=');
}

bool is_word_byte(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

}  // namespace

void WikitextCleaner::push(std::string_view piece, std::string& out) {
  const bool waiting = !pending_.empty();
  if (waiting) pending_.append(piece);
  const std::string_view text = waiting ? std::string_view(pending_) : piece;
  const std::size_t used = run(text, false);
  if (waiting) pending_.erase(0, used);
  else pending_.assign(text.substr(used));
  settle(out, false);
}

void WikitextCleaner::finish(std::string& out) {
  run(pending_, true);
  while (any_open()) {
    const Frame innermost = frames_.back();
    pop();
    if (innermost.kind == kTable || innermost.kind == kRow) drop(innermost.mark);
  }
  end_line();
  if (out_.ends_with('\n')) out_.pop_back();
  settle(out, true);
  pending_.clear();
  position_ = 0;
  at_line_start_ = true;
  in_comment_ = skip_separators_ = false;
  dropped_at_ = -1;
  heading_ = 0;
  no_end_before_.clear();
}

std::size_t WikitextCleaner::run(std::string_view text, bool last) {
  const std::uint64_t start = position_;
  std::size_t at = 0;
  while (at < text.size()) {
    const std::string_view rest = text.substr(at);
    position_ = start + at;
    bound();
    if (in_comment_) {
      const std::size_t end = rest.find("-->");
      if (end == rest.npos) {
        at += last ? rest.size() : rest.size() - std::min<std::size_t>(2, rest.size());
        break;
      }
      at += end + 3;
      in_comment_ = false;
      note_drop();
      continue;
    }
    if (!at_line_start_ && !skip_separators_) {
      if (const std::size_t plain = plain_bytes(rest); plain > 0) {
        const std::size_t room = any_open() ? kMostHeld + 1 - (out_.size() - frames_[base_].mark) : plain;
        put(rest.substr(0, std::min(plain, room)));
        at += std::min(plain, room);
        continue;
      }
    }
    if (rest.size() < kLookAhead && !last) break;
    if (skip_separators_) {
      const std::size_t separator = separator_at_start(rest);
      skip_separators_ = separator > 0;
      at += separator;
      continue;
    }
    if (at_line_start_) {
      if (const std::size_t mark = line_start(rest); mark > 0) {
        at += mark;
        continue;
      }
      at_line_start_ = false;
      if (!kIsSpecial[static_cast<unsigned char>(rest.front())]) continue;
    }
    const std::size_t taken = step(rest, last);
    if (taken == kNeedMore) break;
    at += taken;
  }
  position_ = start + at;
  return at;
}

std::size_t WikitextCleaner::step(std::string_view rest, bool last) {
  switch (rest.front()) {
    case '\n': return newline();
    case ' ':
    case '\t': return blank();
    case '\r': return 1;
    case '<': return tag(rest, last);
    case '&': return entity(rest);
    case '\'': return quotes(rest);
    case '[': return open_bracket(rest, last);
    case ']': return close_bracket(rest);
    case '{': return open_braces(rest);
    case '}': return close_braces(rest);
    case '|': return bar();
    case '-': return hyphen(rest);
    case '_': return underscore(rest);
    case ')': return closing_parenthesis(rest);
    case '\xEF': return full_width(rest);
    default: put("\xC0"); return 1;
  }
}

// Marks at the start of a line; 0 where the line's text begins. Several may follow one another.
std::size_t WikitextCleaner::line_start(std::string_view rest) {
  constexpr std::string_view kListMarks = "*#:;";
  const char c = rest.front();
  if (c == ' ' || c == '\t' || c == '\r') return 1;
  if (kListMarks.find(c) != kListMarks.npos && open_[kRule] == 0) return 1;
  if (rest.starts_with("----")) return run_of('-', rest);
  if (rest.starts_with("{|")) {
    open(kTable);
    at_line_start_ = false;
    return 2;
  }
  if (c == '|') {
    if (rest.starts_with("|}") && nearest_is(kTable, kTemplate)) {
      pop_to(kTable);
      const std::size_t mark = frames_.back().mark;
      pop();
      drop(mark);
      return 2;
    }
    if (any_open()) return 0;
    open(kRow);  // of a table that a template began
    at_line_start_ = false;
    return 1;
  }
  if (c != '=') return 0;
  const std::size_t marks = run_of('=', rest);
  if (marks > 6) return 0;
  if (marks == 1 && !is_short_heading(rest.substr(0, kLookAhead))) return 0;
  if (open_[kTable] > 0 && open_[kTemplate] == 0) {  // it was never closed
    std::size_t mark = 0;
    while (open_[kTable] > 0) {
      mark = frames_.back().mark;
      pop();
    }
    drop(mark);
  }
  heading_ = marks;
  heading_from_ = static_cast<std::ptrdiff_t>(out_.size());
  at_line_start_ = false;
  std::size_t used = marks;
  while (used < std::min(rest.size(), kLookAhead) && rest[used] == ' ') ++used;
  return used;
}

std::size_t WikitextCleaner::newline() {
  while (top_is(kExternal) || (top_is(kLink) && !frames_.back().bar)) pop();
  if (top_is(kRow)) {
    const std::size_t mark = frames_.back().mark;
    pop();
    drop(mark);
  }
  end_line();
  at_line_start_ = true;
  return 1;
}

void WikitextCleaner::end_line() {
  if (out_.size() > floor() && out_.back() == ' ') out_.pop_back();
  if (heading_ > 0) end_heading();
  if (!out_.empty() && out_.back() != '\n') out_.push_back('\n');
}

void WikitextCleaner::end_heading() {
  const auto from = std::max(heading_from_, static_cast<std::ptrdiff_t>(floor()));
  std::size_t marks = std::exchange(heading_, 0);
  if (static_cast<std::ptrdiff_t>(out_.size()) - from > static_cast<std::ptrdiff_t>(kHeadingBytes)) return;
  const auto more = [&](char c) {
    return static_cast<std::ptrdiff_t>(out_.size()) > from && out_.back() == c;
  };
  for (; marks > 0 && more('='); --marks) out_.pop_back();
  if (more(' ')) out_.pop_back();
}

std::size_t WikitextCleaner::blank() {
  if (out_.empty() || (out_.back() != ' ' && out_.back() != '\n')) out_.push_back(' ');
  return 1;
}

std::size_t WikitextCleaner::quotes(std::string_view rest) {
  const std::size_t run = run_of('\'', rest);
  const std::size_t shown = run == 1 ? 1 : run == 4 ? 1 : run > 5 ? run - 5 : 0;
  if (shown > 0) put(rest.substr(0, shown));
  return run;
}

std::size_t WikitextCleaner::hyphen(std::string_view rest) {
  const std::size_t braces = run_of('{', rest.substr(1, kLookAhead - 1));
  if (braces % 2 == 0) {  // none, or templates behind a hyphen
    put("-");
    return 1;
  }
  open(kRule);
  return 2;
}

std::size_t WikitextCleaner::open_braces(std::string_view rest) {
  if (!rest.starts_with("{{")) {
    put("{");
    return 1;
  }
  open(kTemplate);
  const std::size_t braces = rest.starts_with("{{{") && !rest.starts_with("{{{{") ? 3 : 2;
  frames_.back().braces = static_cast<std::uint8_t>(braces);
  return braces;
}

std::size_t WikitextCleaner::close_braces(std::string_view rest) {
  const bool two = rest.starts_with("}}"), rule = rest.starts_with("}-");
  if (rule && open_[kRule] > 0) {
    pop_to(kRule);
    close_rule();
    return 2;
  }
  if (!two) {
    put("}");
    return 1;
  }
  if (open_[kTemplate] == 0) return 2;
  pop_to(kTemplate);
  const bool three = frames_.back().braces == 3 && rest.starts_with("}}}");
  close_template();
  return three ? 3 : 2;
}

std::size_t WikitextCleaner::open_bracket(std::string_view rest, bool last) {
  if (rest.starts_with("[[") && !is_url(rest.substr(2))) {
    open(kLink);
    return 2;
  }
  if (!is_url(rest.substr(1))) {
    put("[");
    return 1;
  }
  const std::size_t end = rest.substr(1, kUrlBytes).find_first_of(" \t\n]<>\"[{");
  if (end == rest.npos) {
    if (!last && rest.size() < kUrlBytes + 1) return kNeedMore;
    put("[");
    return 1;
  }
  open(kExternal);
  return 1 + end + (rest[1 + end] == ' ' ? 1 : 0);
}

std::size_t WikitextCleaner::close_bracket(std::string_view rest) {
  if (top_is(kExternal)) {
    const std::size_t mark = frames_.back().mark;
    pop();
    if (out_.size() == mark) note_drop();
    return 1;
  }
  if (!rest.starts_with("]]")) {
    put("]");
    return 1;
  }
  if (nearest_is(kLink, kTemplate)) {
    pop_to(kLink);
    close_link();
  }
  return 2;
}

// __TOC__, __NOEDITSECTION__, __消歧义__
std::size_t WikitextCleaner::underscore(std::string_view rest) {
  if (rest.starts_with("__")) {
    std::size_t end = 2;
    while (end < std::min<std::size_t>(rest.size(), 64) &&
           ((rest[end] >= 'A' && rest[end] <= 'Z') || static_cast<unsigned char>(rest[end]) >= 0xE0 ||
            (static_cast<unsigned char>(rest[end]) & 0xC0) == 0x80))
      ++end;
    if (end > 2 && rest.substr(end).starts_with("__")) {
      note_drop();
      return end + 2;
    }
  }
  put("_");
  return 1;
}

// A parenthesis with nothing left in it is dropped, separators before one that closes go with what was
// dropped.
std::size_t WikitextCleaner::closing_parenthesis(std::string_view rest) {
  const bool wide = rest.front() != ')';
  const std::size_t bytes = wide ? kWideClose.size() : 1;
  const bool dropped_here = dropped_at_ == static_cast<std::ptrdiff_t>(out_.size());
  std::string_view before = std::string_view(out_).substr(floor());
  for (std::size_t i = 0; i < kSeparators; ++i) {
    const std::size_t separator = separator_at_end(before);
    if (separator == 0 || (!dropped_here && before.back() != ' ')) break;
    before.remove_suffix(separator);
  }
  const std::size_t end = floor() + before.size();
  if (ends_with_parenthesis(before)) {
    before.remove_suffix(before.ends_with('(') ? 1 : kWideOpen.size());
    const bool emptied = dropped_at_ >= static_cast<std::ptrdiff_t>(end);
    if (wide || emptied || before.empty() || !is_word_byte(before.back())) {  // f() stays
      drop(floor() + before.size());
      return bytes;
    }
  } else if (dropped_here) {
    cut(end);
  }
  put(rest.substr(0, bytes));
  return bytes;
}

std::size_t WikitextCleaner::full_width(std::string_view rest) {
  if (rest.starts_with(kWideClose)) return closing_parenthesis(rest);
  const bool separator = separator_at_start(rest) > 0;
  if (separator && std::string_view(out_).substr(floor()).ends_with(kWideOpen)) return 3;
  put(rest.substr(0, 1));
  return 1;
}

void WikitextCleaner::note_drop() {
  dropped_at_ = static_cast<std::ptrdiff_t>(out_.size());
  if (out_.empty() || out_.back() == '\n') at_line_start_ = true;
  else skip_separators_ = ends_with_parenthesis(std::string_view(out_).substr(floor()));
}

void WikitextCleaner::settle(std::string& out, bool all) {
  std::size_t end = out_.size();
  if (!all) {
    end -= std::min(end, kTail);
    if (any_open()) end = std::min(end, frames_[base_].mark);
    if (end < kSettled) return;
  }
  rules_.apply(std::string_view(out_).substr(0, end), all, out);
  out_.erase(0, end);
  for (std::size_t i = base_; i < frames_.size(); ++i) frames_[i].mark -= end;
  dropped_at_ -= static_cast<std::ptrdiff_t>(end);
  heading_from_ -= static_cast<std::ptrdiff_t>(end);
}

}  // namespace data
