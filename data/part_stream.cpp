#include "data/part_stream.h"

#include <utility>

#include "data/text_cut.h"
#include "data/wikitext.h"

namespace data {

void TextBlock::clear() {
  text.clear();
  parts.clear();
  converted.clear();
  ids.clear();
  unknown_words.clear();
  input_bytes = replaced = empty_pages = 0;
}

PartStream::PartStream(Options options, std::function<void(TextBlock&)> push)
    : options_(options), push_(std::move(push)), text_hash_(options.seed) {}

void PartStream::begin() {
  block_.text.resize(pending_);
  emitted_ = 0;
  has_text_ = part_open_ = hashed_ = marked_ = verbatim_ = false;
  text_hash_ = SplitHash(options_.seed);
}

void PartStream::text(std::string_view piece) {
  has_text_ = has_text_ || !is_blank_text(piece);
  while (!piece.empty()) {
    const std::size_t room = options_.part_bytes - (block_.text.size() - pending_);
    const std::string_view part = piece.substr(0, room);
    block_.text.append(part);
    piece.remove_prefix(part.size());
    if (part.size() < room) break;
    emit(safe_cut(std::string_view(block_.text).substr(pending_), options_.words, options_.converter),
         PartEnd::open);
  }
}

void PartStream::marked_text(std::string_view piece) {
  marked_ = true;
  text(piece);
}

bool PartStream::page(std::string_view title, std::string_view source) {
  begin();
  block_.text.append(title);
  if (!title.empty()) block_.text.push_back('\n');
  const std::size_t wikitext_from = block_.text.size() - pending_;
  block_.text.append(source);
  emit(block_.text.size() - pending_, PartEnd::whole, title, wikitext_from);
  return true;
}

// Makes a part of the first `bytes` that are pending.
void PartStream::emit(std::size_t bytes, PartEnd then, std::string_view title, std::size_t wikitext_from) {
  const bool cut = !options_.raw && part_open_ && emitted_ + bytes > options_.document_bytes;
  if (cut) {
    Part& last = block_.parts.empty() ? block_.parts.emplace_back() : block_.parts.back();
    last.then = PartEnd::whole;
    last.hash = text_hash_.value();
    emitted_ = 0;
    ++cut_documents_;
  }
  Part part{.text_end = pending_ + bytes,
            .then = then,
            .wikitext_from = wikitext_from,
            .marked = marked_,
            .verbatim = verbatim_};
  if (marked_) {
    const auto text = std::string_view(block_.text).substr(pending_, bytes);
    const std::size_t mark = text.find_last_of("\xFE\xFF");
    if (mark != text.npos) verbatim_ = text[mark] == kVerbatimBegin;
  }
  if (!title.empty()) {
    SplitHash hash(options_.seed);
    hash.update(title);
    part.hash = hash.value();
  } else if (then == PartEnd::whole && !hashed_) {
    part.hash_of_text = true;
  } else if (!options_.raw) {
    text_hash_.update(std::string_view(block_.text).substr(pending_, bytes));
    part.hash = text_hash_.value();
    hashed_ = true;
  }
  block_.parts.push_back(part);
  pending_ += bytes;
  emitted_ += bytes;
  part_open_ = then == PartEnd::open;
  constexpr std::size_t kPartCost = 16;  // many tiny documents fill a block too
  if (pending_ + kPartCost * block_.parts.size() >= options_.block_bytes) push_block();
}

void PartStream::end(std::string_view title) {
  if (!has_text_) {
    skip("empty");
    return abandon();
  }
  emit(block_.text.size() - pending_, PartEnd::whole, title);
}

void PartStream::abandon() {
  block_.text.resize(pending_);
  if (part_open_) emit(0, PartEnd::abandoned);
}

void PartStream::finish(bool limited) {
  if (options_.raw) {
    std::string_view rest = std::string_view(block_.text).substr(pending_);
    if (limited) rest = rest.substr(0, whole_characters(rest));
    if (!rest.empty()) emit(rest.size(), PartEnd::open);
  }
  block_.text.resize(pending_);
  push_block();
}

void PartStream::push_block() {
  if (block_.parts.empty()) return;
  const std::string rest = block_.text.substr(pending_);
  const std::uint64_t input_bytes = block_.input_bytes;
  block_.text.resize(pending_);
  push_(block_);
  block_.clear();
  block_.text = rest;
  block_.input_bytes = input_bytes;
  pending_ = 0;
}

}  // namespace data
