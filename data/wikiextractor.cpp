#include <algorithm>

#include "data/document_reader.h"
#include "data/line_reader.h"
#include "data/xml_text.h"
#include "engine/error.h"

namespace data {
namespace {

constexpr std::size_t kTitleBytes = 255;     // more is no title in MediaWiki
constexpr std::size_t kTagBytes = 64 << 10;  // of a line <doc ...>; what is longer is ignored

// The value of title="..." in a line <doc ...>.
std::string title_of(std::string_view tag) {
  constexpr std::string_view kAttribute = " title=\"";
  std::string title;
  const std::size_t at = tag.find(kAttribute);
  if (at == tag.npos) return title;
  // A title may hold a quotation mark that the producer did not escape.
  const std::string_view value = tag.substr(at + kAttribute.size());
  decode_xml(value.substr(0, std::min(value.rfind('"'), kTitleBytes)), title);
  return title;
}

class DocReader {
 public:
  DocReader(Input& input, DocumentSink& sink) : input_(input), sink_(sink) {}

  void read() {
    LineReader lines(input_);
    LinePiece line{};
    while (lines.next(line)) take(line);
    if (!in_document_) return;
    if (open_) sink_.abandon();
    if (input_.limited()) return;
    sink_.skip("cut off");
    sink_.warn(fmt::format("{}: ends inside <doc>, at byte {}; the documents before it are used",
                           input_.name(), input_.offset()));
  }

 private:
  void take(const LinePiece& line) {
    if (in_tag_) return take_tag(line);
    if (line.starts && line.text.starts_with("<doc ")) {
      if (in_document_) {
        if (open_) sink_.abandon();
        sink_.skip("cut off");
      }
      in_document_ = true;
      open_ = false;
      head_.clear();
      tag_.clear();
      take_tag(line);
    } else if (in_document_ && line.starts && line.ends && line.text == "</doc>") {
      in_document_ = false;
      if (open_) sink_.end(title_);
      else sink_.skip("empty");
    } else if (in_document_) {
      take_text(line);
    }
  }

  // A line <doc ...> may come in several pieces.
  void take_tag(const LinePiece& line) {
    tag_ += line.text.substr(0, kTagBytes - tag_.size());
    in_tag_ = !line.ends;
    if (line.ends) title_ = title_of(tag_);
  }

  // Title and blank lines are held back until there is a text.
  void take_text(const LinePiece& line) {
    if (open_) {
      if (line.starts) sink_.text("\n");
      return sink_.text(line.text);
    }
    const bool whole = line.starts && line.ends;
    if (whole && head_.empty() && line.text == title_) {
      head_ = title_;
      return;
    }
    if (whole && is_blank_text(line.text)) return;
    open_ = true;
    sink_.begin();
    if (!head_.empty()) {
      sink_.text(head_);
      sink_.text("\n");
    }
    sink_.text(line.text);
  }

  Input& input_;
  DocumentSink& sink_;
  bool in_document_ = false;  // after <doc
  bool in_tag_ = false;       // inside the line <doc ...>
  bool open_ = false;         // the sink has its begin()
  std::string tag_, title_, head_;
};

}  // namespace

void read_wikiextractor(Input& input, DocumentSink& sink) { DocReader(input, sink).read(); }

}  // namespace data
