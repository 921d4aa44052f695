// One producer, several workers, one block after the other consumed: blocks leave in the order in which they
// came, so that the result does not depend on the number of workers.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace data {

template <class Block> class BlockQueue {
 public:
  explicit BlockQueue(std::size_t capacity) : capacity_(capacity) {}

  // Runs `produce` in a thread of its own and `work` in `workers` threads, of which this is one. The worker
  // that finishes the first block calls `consume` for it and those behind it that are finished too: never two
  // calls at once. The first exception in the order of the blocks ends all and comes out here; one of
  // `produce` counts as after its last block. When it is over for another reason, push() throws Stopped in
  // the producer, and stopped() is true.
  void run(int workers, const std::function<void()>& produce, const std::function<void(Block&, int)>& work,
           const std::function<void(Block&)>& consume) {
    {
      std::vector<std::jthread> threads;
      threads.emplace_back([&] { run_producer(produce); });
      for (int i = 1; i < workers; ++i) threads.emplace_back([&, i] { run_worker(work, consume, i); });
      run_worker(work, consume, 0);
    }
    if (error_) std::rethrow_exception(error_);
    if (producer_error_) std::rethrow_exception(producer_error_);
  }

  struct Stopped {};

  // By the producer. Waits while `capacity` blocks are under way.
  void push(Block block) {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [&] { return stopped_ || entries_.size() < capacity_; });
    if (stopped_) throw Stopped();
    entries_.emplace_back().block = std::move(block);
    to_do_.notify_one();
  }
  // A block that was consumed, as `consume` left it, to use its memory again; a new one if there is none.
  Block spare() {
    std::lock_guard lock(mutex_);
    if (spares_.empty()) return {};
    Block block = std::move(spares_.back());
    spares_.pop_back();
    return block;
  }
  bool stopped() const {
    std::lock_guard lock(mutex_);
    return stopped_;
  }

 private:
  struct Entry {
    Block block;
    bool done = false;
    std::exception_ptr error;
  };

  void run_producer(const std::function<void()>& produce) {
    std::exception_ptr error;
    try {
      produce();
    } catch (const Stopped&) {
    } catch (...) {
      error = std::current_exception();
    }
    std::lock_guard lock(mutex_);
    producer_error_ = error;
    complete_ = true;
    to_do_.notify_all();
  }

  void run_worker(const std::function<void(Block&, int)>& work, const std::function<void(Block&)>& consume,
                  int index) {
    while (Entry* const entry = next_to_do()) {
      try {
        work(entry->block, index);
      } catch (...) {
        entry->error = std::current_exception();
      }
      std::unique_lock lock(mutex_);
      entry->done = true;
      if (!consuming_) consume_finished(consume, lock);
    }
  }

  Entry* next_to_do() {
    std::unique_lock lock(mutex_);
    to_do_.wait(lock, [&] { return taken_ < entries_.size() || stopped_ || complete_; });
    return stopped_ || taken_ == entries_.size() ? nullptr : &entries_[taken_++];
  }

  void consume_finished(const std::function<void(Block&)>& consume, std::unique_lock<std::mutex>& lock) {
    consuming_ = true;
    while (!stopped_ && !entries_.empty() && entries_.front().done) {
      Entry& first = entries_.front();
      lock.unlock();
      try {
        if (first.error) std::rethrow_exception(first.error);
        consume(first.block);
      } catch (...) {
        first.error = std::current_exception();
      }
      lock.lock();
      if (first.error) return stop(first.error);
      if (spares_.size() < capacity_) spares_.push_back(std::move(first.block));
      entries_.pop_front();
      --taken_;
      room_.notify_one();
    }
    consuming_ = false;
  }

  void stop(std::exception_ptr error) {
    error_ = std::move(error);
    stopped_ = true;
    room_.notify_all();
    to_do_.notify_all();
  }

  const std::size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable room_, to_do_;  // for the producer, for the workers
  std::deque<Entry> entries_;             // its ends move, the entries do not
  std::size_t taken_ = 0;                 // entries that a worker has or had
  std::vector<Block> spares_;
  bool complete_ = false, stopped_ = false, consuming_ = false;
  std::exception_ptr error_, producer_error_;
};

}  // namespace data
