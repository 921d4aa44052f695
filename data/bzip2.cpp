// bzip2 data as a source of bytes. Blocks are found by the 48 bits that they begin with, wherever in a byte,
// and decoded by several threads ahead of the reader; what the reader uses is only what the block before it
// ends at. So bits that merely look like a block's beginning cost time, and no more than a few blocks' worth.
#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "data/byte_source.h"
#include "data/bzip2_block.h"
#include "engine/error.h"

namespace data {
namespace {

using engine::Exit;
using engine::fail;
using engine::require;

constexpr std::size_t kReadBytes = 256 << 10;
constexpr std::size_t kMostWaiting = 8 << 20;  // packed bytes that are decoded ahead
constexpr int kMostFalse = 16;                 // beginnings of no block, after which none is decoded ahead
constexpr std::uint64_t kNone = ~std::uint64_t{0};

// A block that is decoded apart from its stream.
struct Piece {
  std::uint64_t first_bit = 0;   // of its mark, in the packed data
  std::vector<std::byte> bytes;  // from the byte of that bit on
  // Filled in by a thread:
  std::vector<std::uint8_t> block;
  std::uint64_t bits = 0;  // from its mark to its end
  std::uint32_t crc = 0;
  bool crc_holds = false;
  Bzip2Result result = Bzip2Result::cut;
  std::exception_ptr error;
  bool done = false, unwanted = false;
};

void decode(Piece& piece, std::span<const std::byte> bytes, Bzip2BlockDecoder& decoder) {
  constexpr std::uint64_t kMarkBits = 48;
  const std::uint64_t in_byte = piece.first_bit % 8;
  BitReader bits(bytes, in_byte + kMarkBits);
  piece.result = decoder.decode(bits, piece.block, &piece.crc);
  if (piece.result != Bzip2Result::ok) return;
  piece.bits = bits.position() - in_byte;
  RunExpander runs;
  runs.start(piece.block);
  std::uint32_t crc = 0;
  std::byte some[16 << 10];
  while (const std::size_t count = runs.expand(some)) crc = bzip2_crc(crc, std::span(some).first(count));
  piece.crc_holds = crc == piece.crc;
}

class DecoderThreads {
 public:
  explicit DecoderThreads(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
  }
  ~DecoderThreads() {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    to_do_changed_.notify_all();
  }

  void push(std::shared_ptr<Piece> piece) {
    std::lock_guard lock(mutex_);
    to_do_.push_back(std::move(piece));
    to_do_changed_.notify_one();
  }
  void wait(Piece& piece) {
    std::unique_lock lock(mutex_);
    done_changed_.wait(lock, [&] { return piece.done; });
    if (piece.error) std::rethrow_exception(piece.error);
  }
  void forget(Piece& piece) {
    std::lock_guard lock(mutex_);
    piece.unwanted = true;
  }

 private:
  void run() {
    Bzip2BlockDecoder decoder;
    for (;;) {
      std::shared_ptr<Piece> piece;
      {
        std::unique_lock lock(mutex_);
        to_do_changed_.wait(lock, [&] { return stopped_ || !to_do_.empty(); });
        if (stopped_) return;
        piece = std::move(to_do_.front());
        to_do_.pop_front();
        if (piece->unwanted) continue;
      }
      try {
        decode(*piece, piece->bytes, decoder);
      } catch (...) {
        piece->error = std::current_exception();
      }
      std::lock_guard lock(mutex_);
      piece->done = true;
      done_changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable to_do_changed_, done_changed_;
  std::deque<std::shared_ptr<Piece>> to_do_;
  bool stopped_ = false;
  std::vector<std::jthread> threads_;  // the last member: they end before the others do
};

// Position of the bit at which kBzip2Block begins, in bits; kNone if there is none. A mark must lie in
// `bytes` with all its bits and begin at `from` or later.
std::uint64_t find_mark(std::span<const std::byte> bytes, std::uint64_t from) {
  constexpr std::uint64_t kMask = (std::uint64_t{1} << 48) - 1;
  // The third byte of a mark, for each bit of a byte at which it may begin.
  constexpr auto kMayBegin = [] {
    std::array<bool, 256> may{};
    for (int bit = 0; bit < 8; ++bit) may[kBzip2Block >> (24 + bit) & 0xFF] = true;
    return may;
  }();
  for (std::size_t i = from / 8; i + 6 <= bytes.size(); ++i) {
    if (!kMayBegin[static_cast<std::size_t>(bytes[i + 2])]) continue;
    std::uint64_t word = 0;
    for (std::size_t k = 0; k < 7; ++k)
      word = word << 8 | (i + k < bytes.size() ? static_cast<std::uint64_t>(bytes[i + k]) : 0);
    for (std::uint64_t bit = 0; bit < 8; ++bit)
      if ((word >> (8 - bit) & kMask) == kBzip2Block && 8 * i + bit >= from &&
          8 * i + bit + 48 <= 8 * bytes.size())
        return 8 * i + bit;
  }
  return kNone;
}

class Bzip2Source final : public ByteSource {
 public:
  Bzip2Source(std::unique_ptr<ByteSource> packed, std::string name, int threads,
              std::function<void(std::string)> warn)
      : packed_(std::move(packed)), name_(std::move(name)), warn_(std::move(warn)), threads_(threads) {}

  std::size_t read(std::span<std::byte> bytes) override {
    for (;;) {
      if (const std::size_t count = runs_.expand(bytes); count > 0 || bytes.empty()) return count;
      if (ended_ || !find_block()) return 0;
      read_block();
    }
  }

 private:
  // Of the packed data, `bits` from position_ on; false where they end before.
  bool want(std::uint64_t bits) { return want_bytes(position_ / 8 + (position_ % 8 + bits + 7) / 8); }
  bool want_bytes(std::uint64_t end) {
    while (window_at_ + window_.size() < end && !packed_ended_) {
      const std::size_t before = window_.size();
      window_.resize(before + kReadBytes);
      const std::size_t count = packed_->read(std::span(window_).subspan(before));
      window_.resize(before + count);
      packed_ended_ = count == 0;
    }
    return window_at_ + window_.size() >= end;
  }
  std::span<const std::byte> window_from(std::uint64_t bit) const {
    return std::span(window_).subspan(static_cast<std::size_t>(bit / 8 - window_at_));
  }
  BitReader bits() const { return {window_from(position_), position_ % 8}; }
  void forget_packed() {
    const std::uint64_t passed = position_ / 8 - window_at_;
    if (passed < std::max(kReadBytes, window_.size() / 2)) return;
    window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(passed));
    window_at_ += passed;
  }

  [[noreturn]] void fail_cut() const {
    fail(Exit::data, "{}: bzip2 data end early, at byte {}; the file is cut off, fetch it again", name_,
         window_at_ + window_.size());
  }
  [[noreturn]] void fail_damaged(std::string_view what) const {
    fail(Exit::data, "{}: bzip2 data are damaged at byte {}: {}; fetch the file again", name_, position_ / 8,
         what);
  }

  // Goes on to the next block, over the ends and beginnings of streams; false at the end of the last one.
  bool find_block() {
    for (;;) {
      forget_packed();
      if (!in_stream_ && !start_stream()) return false;
      if (!want(48)) fail_cut();
      const std::uint64_t found = bits().take48();
      if (found == kBzip2Block) return true;
      if (found != kBzip2End) fail_damaged("no block begins there");
      if (!want(48 + 32)) fail_cut();
      BitReader end = bits();  // only now: wanting more may move the window
      end.take48();
      if (end.take(32) != stream_crc_) fail_damaged("wrong CRC of the stream");
      position_ = (position_ + 48 + 32 + 7) / 8 * 8;
      in_stream_ = false;
    }
  }

  bool start_stream() {
    constexpr std::uint64_t kHeaderBits = 32;
    const std::uint32_t header = want(kHeaderBits) ? bits().take(32) : 0;
    constexpr std::uint32_t kMagic = 'B' << 16 | 'Z' << 8 | 'h';
    if (header >> 8 != kMagic || (header & 0xFF) < '1' || (header & 0xFF) > '9') {
      if (position_ == 0) fail_damaged("no stream begins there");
      ended_ = true;
      warn_of_rest();
      return false;
    }
    level_ = (header & 0xFF) - '0';
    position_ += kHeaderBits;
    stream_crc_ = 0;
    in_stream_ = true;
    return true;
  }

  // Behind the last stream zeros are padding, other bytes are ignored with a warning.
  void warn_of_rest() {
    const std::uint64_t at = position_ / 8;
    do {
      const auto rest = window_from(position_);
      if (std::ranges::any_of(rest, [](std::byte b) { return b != std::byte{0}; }))
        return warn_(fmt::format("{}: bytes after the bzip2 data, from byte {} on, are ignored", name_, at));
      position_ += 8 * rest.size();
      forget_packed();
    } while (want(8));
  }

  // The block at position_, which goes to runs_.
  void read_block() {
    std::shared_ptr<Piece> piece = threads_ > 1 ? decoded_ahead() : nullptr;
    if (!piece) {
      want_bytes(position_ / 8 + kBzip2MostPacked);
      piece = std::make_shared<Piece>();
      piece->first_bit = position_;
      if (!decoder_) decoder_ = std::make_unique<Bzip2BlockDecoder>();
      const auto packed = window_from(position_);
      decode(*piece, packed.first(std::min(packed.size(), kBzip2MostPacked)), *decoder_);
    }
    if (piece->result == Bzip2Result::cut && packed_ended_) fail_cut();
    require(piece->result != Bzip2Result::randomised, Exit::data,
            "{}: written by bzip2 0.9.0 or older, at byte {}, which is not read; unpack it and pack it anew",
            name_, position_ / 8);
    if (piece->result != Bzip2Result::ok || piece->block.size() > 100'000 * level_)
      fail_damaged("this is no bzip2 block");
    if (!piece->crc_holds) fail_damaged("wrong CRC of the block");
    stream_crc_ = (stream_crc_ << 1 | stream_crc_ >> 31) ^ piece->crc;
    position_ += piece->bits;
    block_ = std::move(piece->block);
    runs_.start(block_);
  }

  // What the threads made of the block at position_; nullptr if they did not see all of it.
  std::shared_ptr<Piece> decoded_ahead() {
    if (!pool_) pool_ = std::make_unique<DecoderThreads>(threads_);
    while (!pieces_.empty() && pieces_.front()->first_bit < position_) {
      pool_->forget(*pieces_.front());
      waiting_bytes_ -= pieces_.front()->bytes.size();
      pieces_.pop_front();
      if (++false_marks_ > kMostFalse) {
        for (const auto& piece : pieces_) pool_->forget(*piece);
        pieces_.clear();
        threads_ = 1;
        return nullptr;
      }
    }
    decode_ahead();
    if (pieces_.empty() || pieces_.front()->first_bit != position_) return nullptr;
    const std::shared_ptr<Piece> piece = std::move(pieces_.front());
    pieces_.pop_front();
    waiting_bytes_ -= piece->bytes.size();
    pool_->wait(*piece);
    return piece->result == Bzip2Result::cut ? nullptr : piece;
  }

  void decode_ahead() {
    constexpr std::size_t kMore = 4;  // than there are threads
    if (next_mark_ < position_) next_mark_ = kNone;
    if (next_mark_ == kNone) next_mark_ = find_mark_from(std::max(searched_, position_));
    while (next_mark_ != kNone && pieces_.size() < static_cast<std::size_t>(threads_) + kMore &&
           waiting_bytes_ < kMostWaiting) {
      auto piece = std::make_shared<Piece>();
      piece->first_bit = next_mark_;
      next_mark_ = find_mark_from(next_mark_ + 1);
      // Up to the next mark, which may begin in the last byte.
      const std::uint64_t first = piece->first_bit / 8;
      const std::uint64_t end = std::min({next_mark_ == kNone ? kNone : next_mark_ / 8 + 1,
                                          window_at_ + window_.size(), first + kBzip2MostPacked});
      const auto bytes = window_from(piece->first_bit).first(static_cast<std::size_t>(end - first));
      piece->bytes.assign(bytes.begin(), bytes.end());
      waiting_bytes_ += bytes.size();
      pieces_.push_back(piece);
      pool_->push(std::move(piece));
    }
  }

  // The first mark at `bit` or later and no further than a block can reach; else kNone.
  std::uint64_t find_mark_from(std::uint64_t bit) {
    const std::uint64_t end = bit / 8 + kBzip2MostPacked;
    searched_ = bit;
    while (searched_ / 8 < end) {
      const bool more = want_bytes(searched_ / 8 + kReadBytes);
      const std::uint64_t found = find_mark(window_, searched_ - 8 * window_at_);
      if (found != kNone) return searched_ = found + 8 * window_at_;
      const std::uint64_t seen = 8 * (window_at_ + window_.size());
      searched_ = std::max(searched_, seen - std::min<std::uint64_t>(seen, 47));
      if (!more) break;
    }
    return kNone;
  }

  std::unique_ptr<ByteSource> packed_;
  std::string name_;
  std::function<void(std::string)> warn_;
  int threads_;  // 1: nothing is decoded ahead

  std::vector<std::byte> window_;  // packed bytes from window_at_ on
  std::uint64_t window_at_ = 0;
  bool packed_ended_ = false;

  std::uint64_t position_ = 0;  // of the stream, in bits: where something must begin
  bool in_stream_ = false, ended_ = false;
  std::uint32_t level_ = 9, stream_crc_ = 0;
  std::vector<std::uint8_t> block_;
  RunExpander runs_;
  std::unique_ptr<Bzip2BlockDecoder> decoder_;

  std::deque<std::shared_ptr<Piece>> pieces_;  // in the order of their first bits
  std::size_t waiting_bytes_ = 0;              // of theirs
  std::uint64_t next_mark_ = kNone;            // of the piece after them
  std::uint64_t searched_ = 0;                 // bits before it hold no other mark
  int false_marks_ = 0;
  std::unique_ptr<DecoderThreads> pool_;
};

}  // namespace

std::unique_ptr<ByteSource> bunzip2(std::unique_ptr<ByteSource> packed, std::string name, int threads,
                                    std::function<void(std::string)> warn) {
  return std::make_unique<Bzip2Source>(std::move(packed), std::move(name), threads, std::move(warn));
}

}  // namespace data
