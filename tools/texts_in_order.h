// Several texts that grow at once, written one after the other.
#pragma once
#include <cstddef>
#include <deque>
#include <functional>
#include <string>
#include <string_view>

namespace tools {

// Each text is the prompt, its pieces and a line feed; a line --- stands between two. The first text that has
// not ended is written as it grows, unless they are not to be streamed; those behind it wait.
class TextsInOrder {
 public:
  using Show = std::function<void(std::string_view)>;
  TextsInOrder(std::string prompt, bool streamed, Show show)
      : prompt_(std::move(prompt)), streamed_(streamed), show_(std::move(show)) {}
  // Text number `text` goes on with `piece`, and ends with it if it is the last.
  void add(std::size_t text, std::string_view piece, bool last);
  bool inside_line() const noexcept { return begun_; }  // a text was begun that has not ended

 private:
  struct Waiting {
    std::string text;
    bool ended = false;
  };

  std::string prompt_;
  bool streamed_, begun_ = false;
  Show show_;
  std::size_t first_ = 0;        // number of the text that is being written
  std::deque<Waiting> waiting_;  // what is not written yet of it and of those behind it
};

}  // namespace tools
