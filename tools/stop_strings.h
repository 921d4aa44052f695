// Where a text that arrives in pieces ends: at the stop text that is complete first. Of several that are
// complete with the same byte, the longest counts. How the text is cut into pieces changes nothing.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace tools {

class StopStrings {
 public:
  // None: no text ends. Throws Error(usage) for one that is empty or not UTF-8.
  explicit StopStrings(const std::vector<std::string>& stops);
  // Appends to `out` what no stop text can begin in any more; what stands before the one that ends the text
  // is all there is.
  void push(std::string_view text, std::string& out);
  // The text ends here: appends what was held back.
  void finish(std::string& out);
  bool stopped() const noexcept { return stopped_; }

 private:
  struct Stop {
    std::string text;
    // fallback[n]: the longest proper suffix of the first n bytes that is also their beginning (Knuth, Morris
    // and Pratt)
    std::vector<std::size_t> fallback;
    std::size_t matched = 0;  // bytes of it that the text so far ends with

    void advance(char next);
  };

  std::vector<Stop> stops_;
  std::string held_;  // as long as the longest `matched`
  bool stopped_ = false;
};

}  // namespace tools
