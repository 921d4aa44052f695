#include <algorithm>

#include "data/document_reader.h"

namespace data {
namespace {

struct LinePiece {
  std::string_view text;  // without its line end; valid until the next call
  bool starts, ends;      // of the line; a line longer than the window comes in several pieces
};

class Lines {
 public:
  explicit Lines(Input& input) : input_(input) {}

  bool next(LinePiece& piece) {
    input_.consume(taken_);
    taken_ = 0;
    std::size_t searched = 0, feed;
    for (;;) {
      feed = input_.window().find('\n', searched);
      searched = input_.window().size();
      if (feed != std::string_view::npos || !input_.fill()) break;
    }
    std::string_view text = input_.window();
    if (text.empty()) return false;
    piece.starts = starts_;
    piece.ends = feed != text.npos || input_.at_end();
    starts_ = piece.ends;
    text = text.substr(0, feed);
    taken_ = text.size() + (feed != std::string_view::npos ? 1 : 0);
    if (text.ends_with('\r')) {
      text.remove_suffix(1);
      if (!piece.ends) --taken_;  // its LF may be the first byte that did not fit
    }
    piece.text = text;
    return true;
  }

 private:
  Input& input_;
  std::size_t taken_ = 0;
  bool starts_ = true;
};

}  // namespace

bool is_blank_text(std::string_view text) noexcept { return std::ranges::all_of(text, is_blank_byte); }

void read_plain_text(Input& input, const std::string& separator, DocumentSink& sink) {
  Lines lines(input);
  LinePiece line{};
  bool open = false;
  while (lines.next(line)) {
    const bool whole = line.starts && line.ends;
    const bool blank = whole && is_blank_text(line.text);
    if (separator.empty() ? blank : whole && line.text == separator) {
      if (open) sink.end({});
      open = false;
      continue;
    }
    if (!open && blank) continue;
    if (!open) sink.begin();
    else if (line.starts) sink.text("\n");
    open = true;
    sink.text(line.text);
  }
  if (!open) return;
  if (input.limited()) sink.abandon();
  else sink.end({});
}

void read_documents(Input& input, const ReaderOptions& options, DocumentSink& sink) {
  switch (input.format()) {
    case InputFormat::plain_text: return read_plain_text(input, options.separator, sink);
    case InputFormat::abstract_xml: return read_abstract_xml(input, sink);
    case InputFormat::json: return read_json(input, options.text_field, sink);
  }
}

}  // namespace data
