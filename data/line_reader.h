// The lines of an input, of any length.
#pragma once
#include <string_view>

#include "data/input.h"

namespace data {

struct LinePiece {
  std::string_view text;  // without its line end; valid until the next call
  bool starts, ends;      // of the line; a line longer than the window comes in several pieces
};

class LineReader {
 public:
  explicit LineReader(Input& input) : input_(input) {}

  // CR LF is a line end too. False at the end of the input.
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

}  // namespace data
