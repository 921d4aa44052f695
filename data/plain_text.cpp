#include <algorithm>

#include "data/document_reader.h"
#include "data/line_reader.h"
#include "data/wikitext.h"

namespace data {
bool is_blank_text(std::string_view text) noexcept { return std::ranges::all_of(text, is_blank_byte); }

void read_plain_text(Input& input, const std::string& separator, DocumentSink& sink) {
  LineReader lines(input);
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

void DocumentSink::marked_text(std::string_view piece) {
  while (!piece.empty()) {
    const auto mark = std::ranges::find_if(piece, is_verbatim_mark);
    const auto plain = static_cast<std::size_t>(mark - piece.begin());
    if (plain > 0) text(piece.substr(0, plain));
    piece.remove_prefix(std::min(plain + 1, piece.size()));
  }
}

void read_documents(Input& input, const ReaderOptions& options, DocumentSink& sink) {
  switch (input.format()) {
    case InputFormat::plain_text: return read_plain_text(input, options.separator, sink);
    case InputFormat::abstract_xml: return read_abstract_xml(input, sink);
    case InputFormat::pages_xml: return read_pages_xml(input, options.variant, sink);
    case InputFormat::wikiextractor: return read_wikiextractor(input, sink);
    case InputFormat::json: return read_json(input, options.text_field, sink);
  }
}

}  // namespace data
