// One producer, several workers, one consumer: blocks leave in the order in which they came, so that the
// result does not depend on the number of workers.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace data {

template <class Block> class BlockQueue {
 public:
  explicit BlockQueue(std::size_t capacity) : capacity_(capacity) {}

  // Runs `produce` and `workers` x `work` in threads of their own and `consume` here, block by block. The
  // first exception in the order of the blocks ends all and comes out here; one of `produce` counts as after
  // its last block. When it is over for another reason, push() throws Stopped in the producer, and stopped()
  // is true.
  void run(int workers, const std::function<void()>& produce, const std::function<void(Block&, int)>& work,
           const std::function<void(Block&)>& consume) {
    {
      struct Threads {
        BlockQueue& queue;
        std::vector<std::jthread> all;
        ~Threads() { queue.stop(), all.clear(); }
      } threads{*this, {}};
      threads.all.emplace_back([&] { run_producer(produce); });
      for (int i = 0; i < workers; ++i) threads.all.emplace_back([&, i] { run_worker(work, i); });
      while (auto entry = next_done()) {
        if (entry->error) std::rethrow_exception(entry->error);
        consume(entry->block);
      }
    }
    if (producer_error_) std::rethrow_exception(producer_error_);
  }

  struct Stopped {};

  // By the producer. Waits while `capacity` blocks are under way.
  void push(Block block) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopped_ || entries_.size() < capacity_; });
    if (stopped_) throw Stopped();
    entries_.push_back(std::make_shared<Entry>(std::move(block)));
    changed_.notify_all();
  }
  bool stopped() const {
    std::lock_guard lock(mutex_);
    return stopped_;
  }

 private:
  struct Entry {
    explicit Entry(Block b) : block(std::move(b)) {}
    Block block;
    bool taken = false, done = false;
    std::exception_ptr error;
  };

  void stop() {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

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
    changed_.notify_all();
  }

  void run_worker(const std::function<void(Block&, int)>& work, int index) {
    for (;;) {
      std::shared_ptr<Entry> entry;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return (entry = first_open()) != nullptr || stopped_ || complete_; });
        if (stopped_ || entry == nullptr) return;
        entry->taken = true;
      }
      try {
        work(entry->block, index);
      } catch (...) {
        entry->error = std::current_exception();
      }
      std::lock_guard lock(mutex_);
      entry->done = true;
      changed_.notify_all();
    }
  }

  std::shared_ptr<Entry> first_open() const {
    for (const auto& entry : entries_)
      if (!entry->taken) return entry;
    return nullptr;
  }

  std::shared_ptr<Entry> next_done() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return entries_.empty() ? complete_ : entries_.front()->done; });
    if (entries_.empty()) return nullptr;
    auto entry = entries_.front();
    entries_.pop_front();
    changed_.notify_all();
    return entry;
  }

  const std::size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Entry>> entries_;
  bool complete_ = false, stopped_ = false;
  std::exception_ptr producer_error_;
};

}  // namespace data
