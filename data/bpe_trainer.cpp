#include "data/bpe_trainer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "data/byte_letters.h"
#include "engine/error.h"

namespace data {
namespace {

using engine::Exit;

using Pair = std::uint64_t;  // left id << 32 | right id: the order in which equally frequent ones are merged
constexpr Pair pair_of(std::uint32_t left, std::uint32_t right) { return Pair{left} << 32 | right; }
constexpr std::uint64_t mix(Pair pair) { return pair * 0x9E3779B97F4A7C15u; }

constexpr std::size_t kFewestSums = std::size_t{1} << 8, kMostSums = std::size_t{1} << 20;
constexpr std::uint32_t kMostSum = UINT32_MAX;
constexpr std::uint64_t kStep = 64;          // from one level to the next
constexpr std::size_t kSpare = 2;            // pairs to watch for each token that is still to be made
constexpr std::size_t kCounted = 1023;       // sums above it are counted as this
constexpr std::uint32_t kAhead = 8;          // places
constexpr std::size_t kPollEvery = 1 << 20;  // bytes

// Lists of numbers that are freed together.
class Lists {
 public:
  std::uint32_t* make(std::size_t size) {
    if (size > room_) {
      room_ = std::max(size, kBlock);
      blocks_.push_back(std::make_unique_for_overwrite<std::uint32_t[]>(room_));
      end_ = blocks_.back().get();
    }
    room_ -= size;
    return std::exchange(end_, end_ + size);
  }
  void clear() {
    blocks_.clear();
    room_ = 0;
  }

 private:
  static constexpr std::size_t kBlock = 1 << 18;
  std::vector<std::unique_ptr<std::uint32_t[]>> blocks_;
  std::uint32_t* end_ = nullptr;
  std::size_t room_ = 0;
};

// A pair that is watched: how often it occurs, and where it did when it was last looked for.
struct Watched {
  Pair pair;
  std::uint64_t times = 0;
  std::uint32_t* places = nullptr;  // rising
  std::uint32_t count = 0;          // of places
};

class WatchList {
 public:
  void clear() {
    watched_.clear();
    slots_.assign(kFirstSlots, 0);
  }
  Watched* find(Pair pair) noexcept {
    for (std::size_t at = first_slot(pair);; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at] == 0) return nullptr;
      Watched& known = watched_[slots_[at] - 1];
      if (known.pair == pair) return &known;
    }
  }
  Watched& add(Pair pair) {  // may move the others
    std::size_t at = first_slot(pair);
    for (; slots_[at] != 0; at = (at + 1) & (slots_.size() - 1)) {
      Watched& known = watched_[slots_[at] - 1];
      if (known.pair == pair) return known;
    }
    watched_.push_back({.pair = pair});
    slots_[at] = static_cast<std::uint32_t>(watched_.size());
    if (2 * watched_.size() > slots_.size()) grow();
    return watched_.back();
  }
  std::vector<Watched>& all() noexcept { return watched_; }

 private:
  static constexpr std::size_t kFirstSlots = 1 << 12;
  std::size_t first_slot(Pair pair) const noexcept {
    return mix(pair) >> (64 - std::countr_zero(slots_.size()));
  }
  void grow() {
    slots_.assign(2 * slots_.size(), 0);
    for (std::uint32_t i = 0; i < watched_.size(); ++i) {
      std::size_t at = first_slot(watched_[i].pair);
      while (slots_[at] != 0) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = i + 1;
    }
  }
  std::vector<Watched> watched_;
  std::vector<std::uint32_t> slots_ = std::vector<std::uint32_t>(kFirstSlots);  // open addressing: index + 1
};

// Pairs are merged in the order of their counts, which only fall: a token is made once, with all its pairs,
// and a string never becomes a token twice (its bytes would have been joined the first time). So pairs rarer
// than a `level` need no book-keeping until all others are done; then the words are gone through for the
// next, lower level.
class Trainer {
 public:
  Trainer(WordCounts counts, const BpeTraining& options);
  std::vector<std::string> run(std::uint64_t* rarest);

 private:
  struct Candidate {
    std::uint64_t times;
    Pair pair;
    bool operator<(const Candidate& other) const {  // true: comes later
      return times != other.times ? times < other.times : pair > other.pair;
    }
  };
  // The neighbours on one side of a new token.
  struct Side {
    struct Neighbour {
      std::uint64_t times = 0;
      std::uint32_t places = 0;
      std::uint32_t* list = nullptr;  // where the next place of the new pair goes
    };
    std::vector<Neighbour> of;                                   // [tokens]
    std::vector<std::uint32_t> ids;                              // those that occur
    std::vector<std::pair<std::uint32_t, std::uint32_t>> where;  // (id, place of the new pair)

    void add(std::uint32_t id, std::uint32_t place, std::uint64_t times) {
      if (of[id].places++ == 0) ids.push_back(id);
      of[id].times += times;
      where.emplace_back(id, place);
    }
  };

  std::uint64_t times_at(std::uint32_t place) const noexcept {
    return place < times_.size() ? times_[place] : 1;
  }
  std::size_t sum_of(Pair pair) const noexcept { return mix(pair) >> sum_shift_; }
  bool lower_level();
  void watch_pairs();
  void merge(Pair pair);
  template <class Before, class After> void settle(Side& side, const Before& before, const After& after);
  template <class Use> void for_each_pair(const Use& use) const;

  const BpeTraining& options_;
  // The words, kBorder before, between and behind them. Each token stands at its first and at its last byte,
  // what is between them is neither's id: so both neighbours of a token are beside it.
  std::vector<std::uint32_t> ids_;
  std::vector<std::uint32_t> times_;    // [places] how often the word there occurs; beyond the end: once
  std::vector<std::string> tokens_;     // [ids] their bytes
  std::vector<std::uint32_t> lengths_;  // [ids] of them
  std::uint64_t level_ = UINT64_MAX;
  std::vector<std::uint32_t> sums_;  // [hashes] occurrences of all pairs with that hash, or kMostSum
  std::uint64_t sum_shift_ = 0;
  WatchList watched_;
  Lists lists_;
  std::priority_queue<Candidate> candidates_;
  Side left_, right_;
};

constexpr std::uint32_t kBorder = 0, kInside = UINT32_MAX;  // no tokens of words

Trainer::Trainer(WordCounts counts, const BpeTraining& options) : options_(options) {
  std::array<std::uint32_t, 256> id_of{};
  tokens_.resize(1);
  for (const unsigned char byte : kBytesByLetter) {
    id_of[byte] = static_cast<std::uint32_t>(tokens_.size());
    tokens_.emplace_back(1, static_cast<char>(byte));
  }
  lengths_.assign(tokens_.size(), 1);
  std::size_t places = 1, repeated = 1;
  for (const WordCounts::Word& word : counts.words()) {
    places += word.bytes + 1;
    repeated += word.times > 1 ? word.bytes + 1 : 0;
  }
  engine::require(
      places < UINT32_MAX && counts.text_bytes() <= UINT32_MAX, Exit::data,
      "the text has {} bytes, its different words {}; byte-level BPE is trained on fewer than 2^32; "
      "give less text",
      counts.text_bytes(), places);
  sums_.resize(std::clamp(std::bit_ceil(places), kFewestSums, kMostSums));
  sum_shift_ = 64 - static_cast<std::uint64_t>(std::countr_zero(sums_.size()));
  ids_.reserve(places);
  times_.reserve(repeated);
  ids_.push_back(kBorder);
  times_.push_back(0);
  for (const bool once : {false, true}) {
    for (const WordCounts::Word& word : counts.words()) {
      if ((word.times == 1) != once) continue;
      for (const char byte : word.text()) ids_.push_back(id_of[static_cast<unsigned char>(byte)]);
      ids_.push_back(kBorder);
      if (!once) times_.resize(ids_.size(), static_cast<std::uint32_t>(word.times));
    }
  }
}

std::vector<std::string> Trainer::run(std::uint64_t* rarest) {
  left_.of.resize(options_.vocab_size);
  right_.of.resize(options_.vocab_size);
  while (tokens_.size() < options_.vocab_size && lower_level()) {
    while (tokens_.size() < options_.vocab_size && !candidates_.empty()) {
      Candidate best = candidates_.top();
      candidates_.pop();
      const std::uint64_t times = watched_.find(best.pair)->times;
      if (times != best.times) {
        best.times = times;
        if (times >= level_) candidates_.push(best);
        continue;
      }
      merge(best.pair);
      *rarest = times;
    }
  }
  return {tokens_.begin() + kFirstMerged, tokens_.end()};
}

// Calls use(Pair, place of its first byte) for each two neighbours in all words.
template <class Use> void Trainer::for_each_pair(const Use& use) const {
  std::uint32_t left = kBorder;
  for (std::size_t at = 1, before = 0, polled = 0; at < ids_.size();) {
    const std::uint32_t right = ids_[at];
    if (left != kBorder && right != kBorder) use(pair_of(left, right), static_cast<std::uint32_t>(before));
    before = at;
    at += right == kBorder ? 1 : lengths_[right];
    left = right;
    if (options_.poll && at - polled > kPollEvery) options_.poll(), polled = at;
  }
}

// Goes on to pairs rarer than those before; false if there are none.
bool Trainer::lower_level() {
  if (level_ == 1) return false;
  std::fill(sums_.begin(), sums_.end(), 0);
  for_each_pair([this](Pair pair, std::uint32_t place) {
    std::uint32_t& sum = sums_[sum_of(pair)];
    sum = static_cast<std::uint32_t>(std::min<std::uint64_t>(sum + times_at(place), kMostSum));
  });
  const std::uint64_t most =
      std::min<std::uint64_t>(*std::max_element(sums_.begin(), sums_.end()), level_ - 1);
  if (most == 0) return false;
  // As far down as the rest of the vocabulary may need, but not so far that the pairs would be many.
  std::vector<std::size_t> having(kCounted + 1);  // [sums, at most] hashes
  for (const std::uint32_t sum : sums_) ++having[std::min<std::size_t>(sum, kCounted)];
  std::size_t needed = kCounted;
  for (std::size_t found = having[needed];
       needed > 1 && found < kSpare * (options_.vocab_size - tokens_.size());)
    found += having[--needed];
  level_ = std::clamp<std::uint64_t>(std::max<std::uint64_t>(needed, most / kStep), 1, most);
  watch_pairs();
  return true;
}

void Trainer::watch_pairs() {
  watched_.clear();
  lists_.clear();
  std::vector<std::uint32_t> found;  // the index of each place's pair, where it may be frequent enough
  found.reserve(ids_.size());
  for_each_pair([&](Pair pair, std::uint32_t place) {
    if (sums_[sum_of(pair)] < level_) return;
    Watched& watched = watched_.add(pair);
    watched.times += times_at(place);
    ++watched.count;
    found.push_back(static_cast<std::uint32_t>(&watched - watched_.all().data()));
  });
  for (Watched& watched : watched_.all()) {
    if (watched.times < level_) continue;
    candidates_.push({watched.times, watched.pair});
    watched.places = lists_.make(std::exchange(watched.count, 0));
  }
  auto next = found.begin();
  for_each_pair([&](Pair pair, std::uint32_t place) {
    if (sums_[sum_of(pair)] < level_) return;
    Watched& watched = watched_.all()[*next++];
    if (watched.places != nullptr) watched.places[watched.count++] = place;
  });
}

// Makes the token that joins the pair, everywhere.
void Trainer::merge(Pair pair) {
  if (options_.poll) options_.poll();
  const auto left = static_cast<std::uint32_t>(pair >> 32), right = static_cast<std::uint32_t>(pair);
  const std::uint32_t left_bytes = lengths_[left], bytes = left_bytes + lengths_[right];
  if (bytes > kMaxTokenBytes) return;
  const Watched found = *watched_.find(pair);
  const auto joined = static_cast<std::uint32_t>(tokens_.size());
  tokens_.push_back(tokens_[left] + tokens_[right]);
  lengths_.push_back(bytes);
  for (std::uint32_t i = 0; i < found.count; ++i) {
    // Places are far apart: the processor is told of them some time before.
    __builtin_prefetch(&ids_[found.places[std::min(i + kAhead, found.count - 1)]], 1);
    const std::uint32_t place = found.places[i], middle = place + left_bytes, end = place + bytes;
    if (ids_[place] != left || ids_[middle] != right) continue;  // joined with others meanwhile
    ids_[middle - 1] = ids_[middle] = kInside;
    ids_[place] = ids_[end - 1] = joined;
    const std::uint64_t times = times_at(place);
    const std::uint32_t before = ids_[place - 1], behind = ids_[end];
    if (before != kBorder) left_.add(before, place - lengths_[before], times);
    // If the pair comes again, it will find this token before it.
    if (behind != kBorder && !(behind == left && ids_[end + left_bytes] == right))
      right_.add(behind, place, times);
  }
  settle(
      left_, [&](std::uint32_t id) { return id == joined ? pair_of(right, left) : pair_of(id, left); },
      [&](std::uint32_t id) { return pair_of(id, joined); });
  settle(
      right_, [&](std::uint32_t id) { return pair_of(right, id); },
      [&](std::uint32_t id) { return pair_of(joined, id); });
  watched_.find(pair)->times = 0;
}

// Takes over what a merge did to the pairs on one side of it: before(id) became after(id).
template <class Before, class After>
void Trainer::settle(Side& side, const Before& before, const After& after) {
  for (const std::uint32_t id : side.ids) {
    const auto [times, places, unused] = std::exchange(side.of[id], {});
    if (Watched* less = watched_.find(before(id))) less->times -= times;
    if (times < level_) continue;
    Watched& more = watched_.add(after(id));
    more.times = times;
    more.count = places;
    more.places = side.of[id].list = lists_.make(places);
    candidates_.push({times, more.pair});
  }
  for (const auto& [id, place] : side.where)
    if (side.of[id].list != nullptr) *side.of[id].list++ = place;
  for (const std::uint32_t id : side.ids) side.of[id].list = nullptr;
  side.ids.clear();
  side.where.clear();
}

}  // namespace

std::unique_ptr<ByteBpe> train_byte_bpe(WordCounts counts, const BpeTraining& options, BpeReport* report) {
  engine::require(
      options.vocab_size >= kFirstMerged, Exit::usage,
      "--vocab-size {} is too small for byte-level BPE: {} and the 256 bytes alone are {}; expected at "
      "least that",
      options.vocab_size, kEndOfText, kFirstMerged);
  BpeReport made{.text_bytes = counts.text_bytes(), .words = counts.words().size()};
  Trainer trainer(std::move(counts), options);
  auto vocabulary = std::make_unique<ByteBpe>(trainer.run(&made.rarest), "byte-level BPE");
  made.size = vocabulary->size();
  if (report != nullptr) *report = made;
  return vocabulary;
}

}  // namespace data
