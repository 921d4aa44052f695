// Wikitext to running text, as docs/data.md ("Wikitext") has it: one pass with a stack of what is open. Text
// is written as it is read, and taken back when what it belongs to turns out to be dropped.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/page_rules.h"
#include "data/wiki_templates.h"

namespace data {

// Replaces the bytes of verbatim marks in a text that has none.
inline void unmark(std::string& text) { std::ranges::replace_if(text, is_verbatim_mark, '\xC0'); }

// One page after the other. Time is linear in a page; memory does not depend on it: what is open for longer
// than 4 MiB of text, or below 2,000 other things, is taken as never closed. The result does not depend on
// how a page is cut into pieces. A page need not be well-formed UTF-8.
class WikitextCleaner {
 public:
  explicit WikitextCleaner(Variant wanted) : wanted_(wanted), rules_(wanted) {}

  // The next piece of a page. Appends to `out` what is settled: whole lines without blanks at their ends,
  // none of them empty, with verbatim text between two marks (data/page_rules.h).
  void push(std::string_view piece, std::string& out);
  // The end of the page; the object is then as new.
  void finish(std::string& out);

 private:
  enum Kind : std::uint8_t { kTemplate, kLink, kExternal, kTable, kRow, kRule, kKinds };
  struct Frame {
    static constexpr std::size_t kMostArguments = 12;
    std::size_t mark;  // where its text begins in out_
    Kind kind;
    std::uint8_t braces = 2;                             // of a template
    bool bar = false;                                    // one was seen
    bool dropped = false;                                // a link that shows nothing
    TemplateText text = {};                              // of a template, after the first bar
    std::uint8_t arguments = 0;                          // seen; the last of kMostArguments is one too many
    std::array<std::uint32_t, kMostArguments> starts{};  // of arguments, behind the mark
  };

  static constexpr std::size_t kMostHeld = 4 << 20;  // bytes of text that wait for something to be closed
  static constexpr std::size_t kNeedMore = 0;        // a step cannot tell yet

  std::size_t run(std::string_view text, bool last);
  // Each takes a construct at the start of `rest`, which shows at least kLookAhead bytes unless it is the
  // last, and returns the bytes taken, or kNeedMore.
  std::size_t step(std::string_view rest, bool last);
  std::size_t line_start(std::string_view rest);
  std::size_t newline();
  std::size_t blank();
  std::size_t bar();
  std::size_t quotes(std::string_view rest);
  std::size_t open_braces(std::string_view rest);
  std::size_t close_braces(std::string_view rest);
  std::size_t open_bracket(std::string_view rest, bool last);
  std::size_t close_bracket(std::string_view rest);
  std::size_t hyphen(std::string_view rest);
  std::size_t underscore(std::string_view rest);
  std::size_t closing_parenthesis(std::string_view rest);
  std::size_t full_width(std::string_view rest);
  std::size_t tag(std::string_view rest, bool last);
  std::size_t element(std::string_view rest, std::size_t tag_bytes, std::size_t kind, bool last);
  std::size_t entity(std::string_view rest);

  void put(std::string_view text) {
    out_.append(text);
    at_line_start_ = false;
  }
  void put_literal(std::string_view text);  // entities are decoded, nothing else
  void end_line();
  void end_heading();

  bool any_open() const { return base_ < frames_.size(); }
  bool top_is(Kind kind) const { return any_open() && frames_.back().kind == kind; }
  std::size_t floor() const { return any_open() ? frames_.back().mark : 0; }
  void open(Kind);
  void pop();                               // the innermost is taken as not there
  void pop_to(Kind);                        // so that one of this kind is innermost; there must be one
  bool nearest_is(Kind, Kind other) const;  // the innermost of the two kinds is of the first
  void cut(std::size_t mark);               // takes back the text behind it
  void drop(std::size_t mark);              // the same, because its markup shows nothing
  void note_drop();                         // something ended here that left no text
  void close_template();
  void close_link();
  void close_rule();
  void bound();  // what is held, by giving up the outermost
  void settle(std::string& out, bool all);

  Variant wanted_;
  PageRules rules_;             // for what settle() hands on
  std::string pending_;         // source that a step wanted to see more of
  std::uint64_t position_ = 0;  // of the source: bytes before the step that is taken
  std::string out_, scratch_;
  std::vector<Frame> frames_;
  std::size_t base_ = 0;  // frames before it were given up
  std::array<std::size_t, kKinds> open_{};
  bool at_line_start_ = true;
  bool in_comment_ = false;
  bool skip_separators_ = false;     // just behind an opening parenthesis whose first words were dropped
  std::ptrdiff_t dropped_at_ = -1;   // in out_: where something was dropped last
  std::size_t heading_ = 0;          // '=' before the heading on this line; 0: none
  std::ptrdiff_t heading_from_ = 0;  // in out_
  std::vector<std::uint64_t>
      no_end_before_;  // per kind of element: no end tag lies before this source position
};

}  // namespace data
