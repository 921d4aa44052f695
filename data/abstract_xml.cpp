#include <algorithm>
#include <charconv>

#include "data/document_reader.h"
#include "data/utf8.h"
#include "engine/error.h"

namespace data {
namespace {

constexpr std::size_t kTagBytes = 256;        // of the tags that matter
constexpr std::size_t kTitleBytes = 4096;     // more is no title
constexpr std::size_t kHeadBytes = 64 << 10;  // of an abstract, to tell whether it is one

// Bytes of the entity at the start of `text` ("&amp;"), whose character goes to `out`; 0 if it is none.
std::size_t decode_entity(std::string_view text, std::string& out) {
  constexpr std::size_t kLongest = 12;
  const std::size_t end = text.substr(0, kLongest).find(';');
  if (end == text.npos) return 0;
  const std::string_view name = text.substr(1, end - 1);
  constexpr std::pair<std::string_view, char> kNamed[] = {
      {"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}};
  for (const auto& [known, c] : kNamed) {
    if (name != known) continue;
    out.push_back(c);
    return end + 1;
  }
  if (!name.starts_with('#')) return 0;
  const bool hex = name.substr(1).starts_with('x') || name.substr(1).starts_with('X');
  const std::string_view digits = name.substr(hex ? 2 : 1);
  std::uint32_t c = 0;
  const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), c, hex ? 16 : 10);
  if (digits.empty() || error != std::errc() || stop != digits.data() + digits.size()) return 0;
  const bool scalar = c != 0 && c <= kLastCodePoint && (c < 0xD800 || c > 0xDFFF);
  append_utf8(out, scalar ? c : kReplacement);
  return end + 1;
}

// Appends `text` with a line feed for each CR LF.
void append_lines(std::string_view text, std::string& out) {
  for (std::size_t end; (end = text.find("\r\n")) != text.npos; text.remove_prefix(end + 1))
    out.append(text.substr(0, end));
  out.append(text);
}

void decode(std::string_view raw, std::string& out) {
  for (;;) {
    const std::size_t plain = std::min(raw.find('&'), raw.size());
    append_lines(raw.substr(0, plain), out);
    raw.remove_prefix(plain);
    if (raw.empty()) return;
    std::size_t used = decode_entity(raw, out);
    if (used == 0) out.push_back('&'), used = 1;
    raw.remove_prefix(used);
  }
}

std::string_view without_site_name(std::string_view title) {
  for (const std::string_view site : {"Wikipedia：", "Wikipedia: "})
    if (title.starts_with(site)) return title.substr(site.size());
  return title;
}

bool is_markup(std::string_view abstract) {
  return abstract.starts_with('|') || abstract.starts_with('!') || abstract.starts_with("}}");
}

class AbstractReader {
 public:
  AbstractReader(Input& input, DocumentSink& sink) : input_(input), sink_(sink) {}

  void read() {
    while (text_until_tag()) take_tag();
    if (!in_document_) return;
    if (started_) sink_.abandon();
    if (input_.limited()) return;
    sink_.skip("cut off");
    sink_.warn(fmt::format("{}: ends inside <doc>, at byte {}; the documents before it are used",
                           input_.name(), input_.offset()));
  }

 private:
  enum class Inside : std::uint8_t { nothing, title, abstract };

  // Hands on the text before the next '<', which is then at the start of the window with its tag; false at
  // the end.
  bool text_until_tag() {
    for (;;) {
      const std::string_view window = input_.window();
      const std::size_t tag = window.find('<');
      if (tag != window.npos) {
        take_text(window.substr(0, tag));
        input_.consume(tag);
        while (input_.window().size() < kTagBytes && input_.fill()) {
        }
        return true;
      }
      // An entity or a CR LF at the end of the window waits for its rest.
      std::size_t whole = window.size();
      if (const std::size_t entity = window.rfind('&'); entity != window.npos && window.size() - entity < 16)
        whole = entity;
      if (whole > 0 && window[whole - 1] == '\r') --whole;
      if (input_.at_end()) whole = window.size();
      take_text(window.substr(0, whole));
      input_.consume(whole);
      if (input_.at_end()) return false;
      input_.fill();
    }
  }

  void take_text(std::string_view raw) {
    if (inside_ == Inside::title) {
      if (title_.size() < kTitleBytes) decode(raw, title_);
      if (title_.size() > kTitleBytes) title_.resize(kTitleBytes);
    } else if (inside_ == Inside::abstract) {
      decode(raw, abstract_);
      if (abstract_.size() >= kHeadBytes) hand_on();
    }
  }

  void take_tag() {
    const std::string_view window = input_.window();
    const auto is = [&](std::string_view tag) { return window.starts_with(tag); };
    const std::size_t end = window.substr(0, kTagBytes).find('>');
    std::size_t used = end == window.npos ? 1 : end + 1;
    if (inside_ == Inside::abstract && !is("</abstract>") && !is("</doc>") && !is("<doc>")) {
      used = 1;
      take_text("<");  // the producer escapes it, so this is text that was not
    } else if (is("<doc>")) {
      if (in_document_ && started_) sink_.abandon();
      if (in_document_) sink_.skip("cut off");
      start_document();
    } else if (is("</doc>")) {
      if (in_document_) end_document();
    } else if (is("<title>") && in_document_) {
      inside_ = Inside::title;
    } else if (is("</title>")) {
      inside_ = Inside::nothing;
    } else if (is("<abstract>") && in_document_) {
      inside_ = Inside::abstract;
    } else if (is("</abstract>")) {
      inside_ = Inside::nothing;
    }
    input_.consume(used);
  }

  void start_document() {
    in_document_ = true;
    started_ = dropped_ = false;
    inside_ = Inside::nothing;
    title_.clear();
    abstract_.clear();
  }

  void end_document() {
    inside_ = Inside::nothing;
    in_document_ = false;
    hand_on();
    if (started_) sink_.end(without_site_name(title_));
  }

  // The abstract so far, preceded by the title when it begins.
  void hand_on() {
    if (!started_ && !dropped_) {
      const bool empty = is_blank_text(std::string_view(abstract_).substr(0, kHeadBytes));
      dropped_ = empty || is_markup(abstract_);
      if (dropped_) return sink_.skip(empty ? "empty" : "markup");
      started_ = true;
      sink_.begin();
      if (!title_.empty()) {
        sink_.text(without_site_name(title_));
        sink_.text("\n");
      }
    }
    if (started_) sink_.text(abstract_);
    abstract_.clear();
  }

  Input& input_;
  DocumentSink& sink_;
  Inside inside_ = Inside::nothing;
  bool in_document_ = false;  // after <doc>
  bool started_ = false;      // the sink has its begin()
  bool dropped_ = false;      // counted as skipped
  std::string title_, abstract_;
};

}  // namespace

void read_abstract_xml(Input& input, DocumentSink& sink) { AbstractReader(input, sink).read(); }

}  // namespace data
