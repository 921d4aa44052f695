#include "tools/stop_strings.h"

#include <algorithm>

#include "data/utf8.h"
#include "engine/error.h"
#include "tools/format.h"

namespace tools {

StopStrings::StopStrings(const std::vector<std::string>& stops) {
  for (const std::string& text : stops) {
    engine::require(!text.empty(), engine::Exit::usage, "--stop: an empty text was given, expected one");
    engine::require(data::is_well_formed(text), engine::Exit::usage, "--stop {}: expected UTF-8",
                    printable(text));
    Stop stop{text, {0, 0}};
    for (std::size_t n = 2; n <= text.size(); n++) {
      std::size_t shorter = stop.fallback[n - 1];
      while (shorter > 0 && text[shorter] != text[n - 1]) shorter = stop.fallback[shorter];
      stop.fallback.push_back(shorter + (text[shorter] == text[n - 1]));
    }
    stops_.push_back(std::move(stop));
  }
}

void StopStrings::Stop::advance(char next) {
  while (matched > 0 && text[matched] != next) matched = fallback[matched];
  matched += text[matched] == next;
}

void StopStrings::push(std::string_view text, std::string& out) {
  if (stopped_) return;
  if (stops_.empty()) {
    out += text;
    return;
  }
  std::size_t at = held_.size(), begun = held_.size();
  held_ += text;
  for (; at < held_.size(); at++) {
    std::size_t ended = 0;
    begun = 0;
    for (Stop& stop : stops_) {
      stop.advance(held_[at]);
      begun = std::max(begun, stop.matched);
      if (stop.matched == stop.text.size()) ended = std::max(ended, stop.matched);
    }
    if (ended == 0) continue;
    out.append(held_, 0, at + 1 - ended);
    held_.clear();
    stopped_ = true;
    return;
  }
  const std::size_t settled = held_.size() - begun;
  out.append(held_, 0, settled);
  held_.erase(0, settled);
}

void StopStrings::finish(std::string& out) {
  out += held_;
  held_.clear();
  for (Stop& stop : stops_) stop.matched = 0;
}

}  // namespace tools
