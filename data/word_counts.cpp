#include "data/word_counts.h"

#include <algorithm>
#include <cstring>

#include "data/gpt2_words.h"
#include "engine/error.h"

namespace data {
namespace {

constexpr std::size_t kBlockBytes = 1 << 20, kFirstSlots = 1 << 12;

std::uint64_t mixed(std::uint64_t a, std::uint64_t b) noexcept {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

std::uint32_t hash_of(std::string_view word) noexcept {
  constexpr std::uint64_t kOdd = 0x9E3779B97F4A7C15u, kOther = 0xD6E8FEB86659FD93u;
  std::uint64_t hash = word.size() * kOdd;
  const char* at = word.data();
  std::size_t left = word.size();
  for (std::uint64_t eight = 0; left > 0;) {
    const std::size_t bytes = std::min(left, sizeof(eight));
    eight = 0;
    std::memcpy(&eight, at, bytes);
    hash = mixed(hash ^ eight, kOther);
    at += bytes;
    left -= bytes;
  }
  return static_cast<std::uint32_t>(mixed(hash, kOdd));
}

}  // namespace

void WordCounts::add(std::string_view text) {
  text_bytes_ += text.size();
  while (!text.empty()) {
    const std::string_view line = text.substr(0, std::min(text.find('\n'), text.size() - 1) + 1);
    for_each_gpt2_word(line, [this](std::string_view word) { add_word(word, 1); });
    text.remove_prefix(line.size());
  }
}

void WordCounts::merge(const WordCounts& other) {
  text_bytes_ += other.text_bytes_;
  for (const Word& word : other.words_) add_word(word.text(), word.times);
}

void WordCounts::add_word(std::string_view word, std::uint64_t times) {
  if (2 * (words_.size() + 1) > slots_.size()) grow();
  const std::uint32_t hash = hash_of(word);
  std::size_t at = hash & (slots_.size() - 1);
  for (; slots_[at].number != 0; at = (at + 1) & (slots_.size() - 1)) {
    if (slots_[at].hash != hash) continue;
    Word& known = words_[slots_[at].number - 1];
    if (known.text() == word) {
      known.times += times;
      return;
    }
  }
  engine::require(word.size() <= UINT32_MAX && words_.size() < UINT32_MAX, engine::Exit::data,
                  "a word of {} bytes, the {}th of the text; expected fewer than 2^32", word.size(),
                  words_.size() + 1);
  words_.push_back({keep(word), static_cast<std::uint32_t>(word.size()), times});
  slots_[at] = {hash, static_cast<std::uint32_t>(words_.size())};
}

void WordCounts::grow() {
  std::vector<Slot> larger(std::max(kFirstSlots, 2 * slots_.size()));
  for (const Slot& slot : slots_) {
    if (slot.number == 0) continue;
    std::size_t at = slot.hash & (larger.size() - 1);
    while (larger[at].number != 0) at = (at + 1) & (larger.size() - 1);
    larger[at] = slot;
  }
  slots_ = std::move(larger);
}

const char* WordCounts::keep(std::string_view word) {
  if (word.size() > room_) {
    room_ = std::max(kBlockBytes, word.size());
    blocks_.push_back(std::make_unique_for_overwrite<char[]>(room_));
    end_ = blocks_.back().get();
  }
  char* const begin = end_;
  std::copy(word.begin(), word.end(), begin);
  end_ += word.size();
  room_ -= word.size();
  return begin;
}

}  // namespace data
