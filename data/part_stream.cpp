#include "data/part_stream.h"

#include <utility>

#include "data/text_cut.h"

namespace data {

PartStream::PartStream(Options options, std::function<void(TextBlock)> push)
    : options_(options), push_(std::move(push)), text_hash_(options.seed) {}

void PartStream::begin() {
  pending_.clear();
  emitted_ = 0;
  has_text_ = part_open_ = false;
  text_hash_ = SplitHash(options_.seed);
}

void PartStream::text(std::string_view piece) {
  has_text_ = has_text_ || !is_blank_text(piece);
  pending_.append(piece);
  std::size_t at = 0;
  while (pending_.size() - at >= options_.part_bytes) {
    const auto window = std::string_view(pending_).substr(at, options_.part_bytes);
    const std::size_t size = safe_cut(window, options_.converter);
    emit(window.substr(0, size), PartEnd::open);
    at += size;
  }
  pending_.erase(0, at);
}

void PartStream::emit(std::string_view part, PartEnd then, std::string_view title) {
  if (!options_.raw && part_open_ && emitted_ + part.size() > options_.document_bytes) {
    Part& last = block_.parts.empty() ? block_.parts.emplace_back() : block_.parts.back();
    last.then = PartEnd::whole;
    last.hash = text_hash_.value();
    emitted_ = 0;
    ++cut_documents_;
  }
  if (!options_.raw) text_hash_.update(part);
  SplitHash hash = text_hash_;
  if (!title.empty()) hash = SplitHash(options_.seed), hash.update(title);
  block_.text.append(part);
  block_.parts.push_back({.text_end = block_.text.size(), .then = then, .hash = hash.value()});
  emitted_ += part.size();
  part_open_ = then == PartEnd::open;
  constexpr std::size_t kPartCost = 16;  // many tiny documents fill a block too
  if (block_.text.size() + kPartCost * block_.parts.size() >= options_.block_bytes) push_block();
}

void PartStream::end(std::string_view title) {
  if (!has_text_) {
    skip("empty");
    return abandon();
  }
  emit(pending_, PartEnd::whole, title);
}

void PartStream::abandon() {
  if (part_open_) emit({}, PartEnd::abandoned);
  pending_.clear();
}

void PartStream::finish(bool limited) {
  if (options_.raw) {
    std::string_view rest = pending_;
    if (limited) rest = rest.substr(0, whole_characters(rest));
    if (!rest.empty()) emit(rest, PartEnd::open);
  }
  push_block();
}

void PartStream::push_block() {
  if (block_.parts.empty()) return;
  TextBlock next;
  next.input_bytes = block_.input_bytes;
  push_(std::exchange(block_, std::move(next)));
}

}  // namespace data
