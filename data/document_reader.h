// Inputs as streams of documents. Readers push; a document of any size passes through in pieces.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "data/input.h"
#include "data/language_markup.h"

namespace data {

class DocumentSink {
 public:
  virtual ~DocumentSink() = default;
  virtual void begin() = 0;  // a document starts
  virtual void text(
      std::string_view piece) = 0;  // cut anywhere, inside characters too; need not be well-formed
  virtual void end(
      std::string_view title) = 0;  // it is whole; the title may be empty and is not part of its text
  virtual void abandon() = 0;       // it is not: nothing of it is used
  virtual void skip(std::string_view reason) = 0;  // counts something that is no document
  virtual void warn(std::string line) = 0;

  // text() with verbatim marks in it (data/wikitext.h), which are left out where a sink does not ask for
  // them.
  virtual void marked_text(std::string_view piece);
  // A whole page of wikitext, its XML entities not decoded, instead of begin(), text and end(): for a sink
  // that cleans it elsewhere. False: it does not.
  virtual bool page(std::string_view /*title*/, std::string_view /*source*/) { return false; }
};

struct ReaderOptions {
  std::string text_field = {};  // of JSON objects; empty: chosen by the first object that has a usual one
  std::string separator = {};   // line between documents of plain text; empty: blank lines are
  Variant variant = Variant::simplified;  // of Chinese, where wikitext has several wordings
};

// Reads all documents of one input, each format by its rules (docs/data.md, "Inputs"). A document that the
// input's limit cuts is abandoned.
void read_documents(Input&, const ReaderOptions&, DocumentSink&);

// The readers of the formats.
// Blank lines (or the separator) end a document, and so does the end of the input; CR LF is a line end.
void read_plain_text(Input&, const std::string& separator, DocumentSink&);
// A document is the title without its site name, LF, the abstract, with entities decoded once. Skips "empty"
// abstracts and "markup" (rows of a template or table that the producer took for text). A dump that ends
// inside <doc>: a warning.
void read_abstract_xml(Input&, DocumentSink&);
// Pages of namespace 0 whose wikitext is cleaned: the title, LF, the text. Skips pages of an "other
// namespace", each "redirect", "deleted" and "empty" ones, those with "no wikitext" and what is "cut off". A
// dump that ends inside <page>: a warning.
void read_pages_xml(Input&, Variant, DocumentSink&);
// Documents between lines <doc ...> and </doc>, as they are. Skips "empty" ones (no more than the title) and
// what is "cut off"; a file that ends inside <doc>: a warning.
void read_wikiextractor(Input&, DocumentSink&);
// Objects, one a line or in an array; the text is a string, or an array of strings or of objects with a text.
// Skips "malformed" ones and those with "no text field", "null" or "not text" there, and "blank" lines. A
// lone surrogate becomes U+FFFD.
void read_json(Input&, const std::string& text_field, DocumentSink&);

inline bool is_blank_byte(char c) noexcept { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_blank_text(std::string_view) noexcept;

}  // namespace data
