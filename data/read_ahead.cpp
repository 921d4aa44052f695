#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "data/byte_source.h"

namespace data {
namespace {

constexpr std::size_t kPieceBytes = 256 << 10;
constexpr int kPieces = 8;

class ReadAhead final : public ByteSource {
 public:
  ReadAhead(std::unique_ptr<ByteSource> source, std::shared_ptr<std::atomic<bool>> closed,
            std::function<void()> at_end)
      : source_(std::move(source)), closed_(std::move(closed)), at_end_(std::move(at_end)) {
    for (int i = 0; i < kPieces; ++i) spare_.emplace_back().bytes.resize(kPieceBytes);
    thread_ = std::jthread([this] { run(); });
  }
  ~ReadAhead() override {
    std::lock_guard lock(mutex_);
    *closed_ = true;
    changed_.notify_all();
  }

  std::size_t read(std::span<std::byte> bytes) override {
    if (given_ == present_.size && !next()) return 0;
    const std::size_t count = std::min(bytes.size(), present_.size - given_);
    std::copy_n(present_.bytes.begin() + static_cast<std::ptrdiff_t>(given_), count, bytes.begin());
    given_ += count;
    return count;
  }

 private:
  struct Piece {
    std::vector<std::byte> bytes;
    std::size_t size = 0;
    bool last = false;         // nothing comes behind it
    std::exception_ptr error;  // of the source, behind these bytes
  };

  // Goes on to the next piece that is not empty; false at the end.
  bool next() {
    while (given_ == present_.size) {
      if (present_.error) std::rethrow_exception(present_.error);
      if (present_.last) {
        if (at_end_) std::exchange(at_end_, nullptr)();
        return false;
      }
      std::unique_lock lock(mutex_);
      if (!present_.bytes.empty()) spare_.push_back(std::move(present_));
      changed_.notify_all();
      changed_.wait(lock, [&] { return !ready_.empty(); });
      present_ = std::move(ready_.front());
      ready_.pop_front();
      given_ = 0;
    }
    return true;
  }

  void run() {
    for (bool last = false; !last;) {
      Piece piece;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return !spare_.empty() || *closed_; });
        if (*closed_) return;
        piece = std::move(spare_.front());
        spare_.pop_front();
      }
      piece.size = 0;
      try {
        piece.size = source_->read(piece.bytes);
        piece.last = piece.size == 0;
      } catch (...) {
        piece.error = std::current_exception();
      }
      last = piece.last || piece.error;
      std::lock_guard lock(mutex_);
      ready_.push_back(std::move(piece));
      changed_.notify_all();
    }
  }

  std::unique_ptr<ByteSource> source_;
  std::shared_ptr<std::atomic<bool>> closed_;
  std::function<void()> at_end_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> spare_, ready_;
  Piece present_;
  std::size_t given_ = 0;  // bytes of the present piece
  std::jthread thread_;    // the last member: ends before the others do
};

}  // namespace

std::unique_ptr<ByteSource> read_ahead(std::unique_ptr<ByteSource> source,
                                       std::shared_ptr<std::atomic<bool>> closed,
                                       std::function<void()> at_end) {
  return std::make_unique<ReadAhead>(std::move(source), std::move(closed), std::move(at_end));
}

}  // namespace data
