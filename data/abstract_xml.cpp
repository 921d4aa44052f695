#include "data/document_reader.h"
#include "data/xml_text.h"
#include "engine/error.h"

namespace data {
namespace {

constexpr std::size_t kTitleBytes = 4096;     // more is no title
constexpr std::size_t kHeadBytes = 64 << 10;  // of an abstract, to tell whether it is one

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
  AbstractReader(Input& input, DocumentSink& sink) : input_(input), scanner_(input), sink_(sink) {}

  void read() {
    while (scanner_.text_until_tag([this](std::string_view raw) { take_text(raw); })) take_tag();
    if (!in_document_) return;
    if (started_) sink_.abandon();
    if (input_.limited()) return;
    sink_.skip("cut off");
    sink_.warn(fmt::format("{}: ends inside <doc>, at byte {}; the documents before it are used",
                           input_.name(), input_.offset()));
  }

 private:
  enum class Inside : std::uint8_t { nothing, title, abstract };

  void take_text(std::string_view raw) {
    if (inside_ == Inside::title) {
      if (title_.size() < kTitleBytes) decode_xml(raw, title_);
      if (title_.size() > kTitleBytes) title_.resize(kTitleBytes);
    } else if (inside_ == Inside::abstract) {
      decode_xml(raw, abstract_);
      if (abstract_.size() >= kHeadBytes) hand_on();
    }
  }

  void take_tag() {
    const auto is = [&](std::string_view tag) { return input_.window().starts_with(tag); };
    std::size_t used = scanner_.tag().size();
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
  XmlScanner scanner_;
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
