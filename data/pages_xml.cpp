#include <algorithm>
#include <array>

#include "data/document_reader.h"
#include "data/wikitext.h"
#include "data/xml_text.h"
#include "engine/error.h"

namespace data {
namespace {

constexpr std::size_t kTitleBytes = 4096;      // more is no title
constexpr std::size_t kFieldBytes = 64;        // of <ns> and <model>
constexpr std::size_t kPageBytes = 1 << 20;    // of the source of a page that is handed on as a whole
constexpr std::size_t kPieceBytes = 64 << 10;  // of a larger one

// "#REDIRECT [[", "#重定向[[": the bodies of pages whose dump says nothing of it elsewhere.
bool is_redirect(std::string_view source) {
  constexpr std::string_view kWords[] = {"重定向", "重新導向", "重新导向"};
  constexpr std::string_view kRedirect = "REDIRECT";
  source.remove_prefix(std::min(source.find_first_not_of(" \t\r\n"), source.size()));
  if (!source.starts_with('#')) return false;
  source.remove_prefix(1);
  source.remove_prefix(std::min(source.find_first_not_of(' '), source.size()));
  const auto is_word = [&](std::string_view word) { return source.starts_with(word); };
  if (std::ranges::any_of(kWords, is_word)) return true;
  const auto equal = [](char a, char b) { return (a & ~0x20) == b; };
  return source.size() >= kRedirect.size() &&
         std::ranges::equal(source.substr(0, kRedirect.size()), kRedirect, equal);
}

class PagesReader {
 public:
  PagesReader(Input& input, Variant variant, DocumentSink& sink)
      : input_(input), scanner_(input), sink_(sink), cleaner_(variant) {}

  void read() {
    while (scanner_.text_until_tag([this](std::string_view raw) { take_text(raw); })) take_tag();
    if (!in_page_) return;
    if (open_) sink_.abandon();
    if (input_.limited()) return;
    sink_.skip("cut off");
    sink_.warn(fmt::format("{}: ends inside <page>, at byte {}; the pages before it are used", input_.name(),
                           input_.offset()));
  }

 private:
  enum class Inside : std::uint8_t { nothing, title, space, model, text };

  void take_text(std::string_view raw) {
    const auto field = [&](std::string& to, std::size_t most) {
      if (to.size() < most) decode_xml(raw, to);
      if (to.size() > most) to.resize(most);
    };
    switch (inside_) {
      case Inside::nothing: return;
      case Inside::title: field(title_, kTitleBytes); return unmark(title_);
      case Inside::space: return field(space_, kFieldBytes);
      case Inside::model: return field(model_, kFieldBytes);
      case Inside::text:
        if (space_.empty() || space_ == "0") source_.append(raw);
    }
    if (source_.size() < (large_ ? kPieceBytes : kPageBytes)) return;
    if (reason_to_skip() == nullptr) clean_piece();
    large_ = true;
    source_.clear();
  }

  void take_tag() {
    const std::string_view tag = scanner_.tag();
    std::size_t used = tag.size();
    const auto is = [&](std::string_view wanted) {  // with attributes, or without
      return input_.window().starts_with(wanted) &&
             std::string_view(" >/").find(input_.window().substr(wanted.size(), 1)) != std::string_view::npos;
    };
    const bool closed = tag.ends_with("/>");
    if (is("<page")) {
      if (in_page_) {
        if (open_) sink_.abandon();
        sink_.skip("cut off");
      }
      start_page();
    } else if (!in_page_) {
    } else if (is("</page")) {
      end_page();
    } else if (inside_ == Inside::text && !is("</text") && !is("</revision")) {
      used = 1;
      take_text("<");  // the producer escapes it, so this is text that was not
    } else if (is("<text")) {
      deleted_ = deleted_ || tag.find("deleted=\"deleted\"") != tag.npos;
      if (!closed && !has_text_) inside_ = Inside::text;
      has_text_ = true;
    } else if (is("<redirect")) {
      redirect_ = true;
    } else if (is("<title")) {
      inside_ = Inside::title;
    } else if (is("<ns")) {
      inside_ = Inside::space;
    } else if (is("<model") && model_.empty()) {
      inside_ = Inside::model;
    } else {
      inside_ = Inside::nothing;
    }
    input_.consume(used);
  }

  void start_page() {
    in_page_ = true;
    has_text_ = deleted_ = redirect_ = large_ = open_ = false;
    inside_ = Inside::nothing;
    for (std::string* field : {&title_, &space_, &model_, &source_}) field->clear();
  }

  // What is known of a page before its text; nullptr: nothing speaks against it.
  const char* reason_to_skip() {
    if (!space_.empty() && space_ != "0") return "other namespace";
    if (redirect_ || (!large_ && is_redirect(source_))) return redirect_ = true, "redirect";
    if (deleted_) return "deleted";
    if (!model_.empty() && model_ != "wikitext") return "no wikitext";
    return nullptr;
  }

  void end_page() {
    in_page_ = false;
    inside_ = Inside::nothing;
    if (const char* reason = reason_to_skip()) return sink_.skip(reason);
    if (!large_ && is_blank_text(source_)) return sink_.skip("empty");
    if (!large_ && sink_.page(title_, source_)) return;
    clean_piece();
    cleaner_.finish(cleaned_);
    hand_on();
    if (open_) sink_.end(title_);
    else sink_.skip("empty");
  }

  void clean_piece() {
    decoded_.clear();
    decode_xml(source_, decoded_);
    cleaner_.push(decoded_, cleaned_);
    hand_on();
  }

  void hand_on() {
    if (!open_ && !is_blank_text(cleaned_)) {
      open_ = true;
      sink_.begin();
      if (!title_.empty()) {
        sink_.text(title_);
        sink_.text("\n");
      }
    }
    if (open_) sink_.marked_text(cleaned_);
    cleaned_.clear();
  }

  Input& input_;
  XmlScanner scanner_;
  DocumentSink& sink_;
  WikitextCleaner cleaner_;
  Inside inside_ = Inside::nothing;
  bool in_page_ = false;  // after <page>
  bool has_text_ = false, deleted_ = false, redirect_ = false;
  bool large_ = false;  // the beginning of its source is gone
  bool open_ = false;   // the sink has its begin()
  std::string title_, space_, model_, source_, decoded_, cleaned_;
};

}  // namespace

void read_pages_xml(Input& input, Variant variant, DocumentSink& sink) {
  PagesReader(input, variant, sink).read();
}

}  // namespace data
