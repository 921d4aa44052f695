#include "data/page_rules.h"

#include <algorithm>
#include <utility>

#include "data/utf8.h"

namespace data {
namespace {

bool is_word(std::string_view from, std::string_view to) {
  return !from.empty() && from.size() <= PageRules::kMostBytes && from.find('\n') == from.npos &&
         is_well_formed(from) && !to.empty() && to.size() <= PageRules::kMostGrowth * from.size() &&
         to.find('\n') == to.npos;
}

std::size_t two_bytes(char first, char second) {
  return std::size_t{static_cast<unsigned char>(first)} << 8 | static_cast<unsigned char>(second);
}

}  // namespace

void PageRules::change(std::size_t offset, RuleChange change, std::string_view rules) {
  if (change == RuleChange::none || seen_ == kMost) return;
  for (const auto& [from, to] : wordings_of(rules, wanted_, kMost - seen_)) {
    ++seen_;
    if (!is_word(from, to)) continue;
    changes_.push_back({position_ + held_.size() + offset, std::string(from),
                        change == RuleChange::remove ? std::string() : std::string(to)});
  }
}

void PageRules::cut(std::size_t offset) {
  // Those before the last one follow when they are made.
  if (!changes_.empty()) changes_.back().at = std::min(changes_.back().at, position_ + held_.size() + offset);
}

void PageRules::apply(std::string_view text, bool last, std::string& out) {
  if (seen_ == 0) {
    const auto mark = std::find_if(text.rbegin(), text.rend(), is_verbatim_mark);
    if (mark != text.rend()) verbatim_ = *mark == kVerbatimBegin;
    out.append(text);
    position_ += text.size();
  } else {
    held_.append(text);
    held_.erase(0, apply_to(held_, last, out));
  }
  if (last) *this = PageRules(wanted_);
}

// Returns the bytes of `text` that are done.
std::size_t PageRules::apply_to(std::string_view text, bool last, std::string& out) {
  for (std::size_t i = changes_.size(); i-- > made_ + 1;)
    changes_[i - 1].at = std::min(changes_[i - 1].at, changes_[i].at);
  const std::uint64_t start = position_;
  // A word begins only where all of the longest one would be in view.
  const std::size_t end = last ? text.size() : text.size() - std::min(text.size(), kMostBytes);
  std::size_t at = 0, copied = 0;
  while (at < end) {
    for (; made_ < changes_.size() && changes_[made_].at <= start + at; ++made_) make(changes_[made_]);
    const std::size_t stop =  // no word reaches across a rule
        made_ < changes_.size() ? std::min<std::uint64_t>(changes_[made_].at - start, text.size())
                                : text.size();
    if (verbatim_ || is_verbatim_mark(text[at])) {
      verbatim_ = is_verbatim_mark(text[at]) ? text[at] == kVerbatimBegin : verbatim_;
      ++at;
      continue;
    }
    const Match found = longest(text.substr(at, stop - at));
    if (found.bytes == 0) {
      ++at;
      continue;
    }
    out.append(text, copied, at - copied);
    out.push_back(kVerbatimBegin);
    out.append(replacements_[found.number]);
    out.push_back(kVerbatimEnd);
    copied = at += found.bytes;
  }
  out.append(text, copied, at - copied);
  position_ = start + at;
  return at;
}

void PageRules::make(const Change& change) {
  if (words_.empty()) words_.push_back(kNoWord);
  std::uint32_t state = kRoot;
  for (const char c : change.from) {
    const auto [found, is_new] = next_.try_emplace(state << 8 | static_cast<unsigned char>(c),
                                                   static_cast<std::uint32_t>(words_.size()));
    if (is_new) words_.push_back(kNoWord);
    state = found->second;
  }
  words_[state] = change.to.empty() ? kNoWord : static_cast<std::uint32_t>(replacements_.size());
  replacements_.push_back(change.to);
  const std::string& word = change.from;
  if (word.size() > 1) starts_.set(two_bytes(word[0], word[1]));
  for (std::size_t second = 0; word.size() == 1 && second < 256; ++second)
    starts_.set(two_bytes(word[0], static_cast<char>(second)));
}

PageRules::Match PageRules::longest(std::string_view text) const {
  Match match;
  if (!starts_.test(two_bytes(text[0], text.size() > 1 ? text[1] : '\0'))) return match;
  std::uint32_t state = kRoot;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto found = next_.find(state << 8 | static_cast<unsigned char>(text[i]));
    if (found == next_.end()) break;
    state = found->second;
    if (words_[state] != kNoWord) match = {i + 1, words_[state]};
  }
  return match;
}

}  // namespace data
