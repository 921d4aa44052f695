// What is open in wikitext, and what is shown of it when it is closed.
#include <algorithm>

#include "data/wiki_languages.h"
#include "data/wikitext.h"

namespace data {
namespace {

constexpr std::size_t kMostOpen = 2000;
constexpr std::size_t kNear = 16;  // open things that are looked through

std::string lower(std::string_view text) {
  std::string all(text);
  for (char& c : all)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return all;
}

// Whether a link to this target shows nothing: files, categories and other languages.
bool shows_nothing(std::string_view target) {
  constexpr std::size_t kPrefixBytes = 16;
  constexpr std::string_view kNames[] = {"file", "image", "category", "文件", "檔案", "档案",     "图像",
                                         "圖像", "图片",  "圖片",     "分类", "分類", "媒体文件", "媒體檔案"};
  target = target.substr(std::min(target.find_first_not_of(" \n"), target.size()));
  const std::size_t colon = target.substr(0, kPrefixBytes).find(':');
  if (colon == target.npos || colon == 0) return false;
  const std::string prefix = lower(target.substr(0, target.find_last_not_of(" _", colon - 1) + 1));
  return std::ranges::find(kNames, std::string_view(prefix)) != std::end(kNames) ||
         is_wikipedia_language(prefix);
}

}  // namespace

std::size_t WikitextCleaner::bar() {
  if (top_is(kExternal) && frames_.size() - base_ > 1 &&
      (frames_.end()[-2].kind == kTemplate || frames_.end()[-2].kind == kLink))
    pop();
  if (top_is(kTemplate)) {
    Frame& frame = frames_.back();
    if (!frame.bar) frame.text = template_text(std::string_view(out_).substr(frame.mark));
    frame.bar = true;
    out_.push_back('|');
    if (frame.text != TemplateText::none && frame.arguments < Frame::kMostArguments)
      frame.starts[frame.arguments++] = static_cast<std::uint32_t>(out_.size() - frame.mark);
  } else if (top_is(kLink) && !frames_.back().bar) {
    Frame& frame = frames_.back();
    frame.bar = true;
    frame.dropped = shows_nothing(std::string_view(out_).substr(frame.mark));
    cut(frame.mark);
  } else {
    put("|");
  }
  return 1;
}

void WikitextCleaner::open(Kind kind) {
  frames_.push_back({.mark = out_.size(), .kind = kind});
  ++open_[kind];
}

void WikitextCleaner::pop() {
  --open_[frames_.back().kind];
  frames_.pop_back();
  if (any_open()) return;
  frames_.clear();
  base_ = 0;
}

void WikitextCleaner::pop_to(Kind kind) {
  while (frames_.back().kind != kind) pop();
}

bool WikitextCleaner::nearest_is(Kind kind, Kind other) const {
  for (std::size_t i = 0; i < std::min(frames_.size() - base_, kNear); ++i) {
    const Kind found = frames_.end()[-1 - static_cast<std::ptrdiff_t>(i)].kind;
    if (found == kind || found == other) return found == kind;
  }
  return false;
}

void WikitextCleaner::cut(std::size_t mark) {
  out_.resize(mark);
  rules_.cut(mark);
  if (dropped_at_ > static_cast<std::ptrdiff_t>(mark)) dropped_at_ = -1;
}

void WikitextCleaner::drop(std::size_t mark) {
  cut(mark);
  note_drop();
}

void WikitextCleaner::close_template() {
  const Frame frame = frames_.back();
  pop();
  const std::string_view all = std::string_view(out_).substr(frame.mark);
  const std::string_view name = all.substr(0, frame.arguments > 0 ? frame.starts[0] - 1 : all.size());
  const TemplateText text = frame.bar ? frame.text : template_text(name);
  scratch_.clear();
  if (text != TemplateText::none && frame.braces == 2) {
    std::vector<std::string_view> arguments;
    const std::size_t count = std::min<std::size_t>(frame.arguments, Frame::kMostArguments - 1);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t end = i + 1 < frame.arguments ? frame.starts[i + 1] - 1 : all.size();
      arguments.push_back(all.substr(frame.starts[i], end - frame.starts[i]));
    }
    show_template(text, name, arguments, scratch_);
  }
  if (scratch_.empty()) return drop(frame.mark);
  cut(frame.mark);
  put(scratch_);
}

void WikitextCleaner::close_link() {
  const Frame frame = frames_.back();
  pop();
  const std::string_view target = std::string_view(out_).substr(frame.mark);
  if (frame.bar ? frame.dropped : shows_nothing(target)) return drop(frame.mark);
  if (!frame.bar && target.starts_with(':')) out_.erase(frame.mark, 1);
}

void WikitextCleaner::close_rule() {
  const Frame frame = frames_.back();
  pop();
  const LanguageRule rule = resolve_language_markup(std::string_view(out_).substr(frame.mark), wanted_);
  rules_.change(frame.mark, rule.change, rule.rules);
  if (rule.text.empty()) return drop(frame.mark);
  scratch_.assign(rule.text);
  cut(frame.mark);
  const bool marked = rule.verbatim && open_[kRule] == 0;
  if (marked) out_.push_back(kVerbatimBegin);
  put(scratch_);
  if (marked) out_.push_back(kVerbatimEnd);
}

void WikitextCleaner::bound() {
  while (any_open() &&
         (out_.size() - frames_[base_].mark > kMostHeld || frames_.size() - base_ > kMostOpen)) {
    if (frames_[base_].kind == kTable) {  // never shown, however long
      while (frames_.size() - base_ > 1) pop();
      cut(frames_[base_].mark);
      continue;
    }
    --open_[frames_[base_].kind];
    ++base_;
    if (!any_open()) frames_.clear(), base_ = 0;
    if (base_ < kMostOpen) continue;
    frames_.erase(frames_.begin(), frames_.begin() + static_cast<std::ptrdiff_t>(base_));
    base_ = 0;
  }
}

}  // namespace data
