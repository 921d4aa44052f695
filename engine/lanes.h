// Work beside a stream's own. A job is given to a lane, a queue of its own on the card: it starts after
// everything that the stream has been given so far, runs beside what the stream is given next, and after the
// lane's earlier jobs. The kernels, their arguments and the order of every sum are those of one queue, so
// results are the same bits.
//
// On the CPU there are no lanes: a job is done where it is given.
#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "engine/arena.h"
#include "engine/device.h"

namespace engine {

enum class Lane : std::uint8_t { weights, first_branch, second_branch };

class Lanes {
 public:
  using Job = std::uint64_t;  // by the order in which they were given, from 1; 0: none
  // Both outlive it. What jobs read and write is the arena's memory, or waited for by hand.
  Lanes(Stream& stream, Arena& arena);

  // Whether jobs run beside the stream (if the device can) or in it, from the next job on; with the same use
  // of memory. For those who time launches or wait for them.
  void run_beside(bool yes) noexcept { beside_ = yes; }

  // Calls `give`, whose launches on stream() are the job. There are no jobs in jobs. At most kAhead jobs of a
  // lane are under way: then the stream waits for the oldest, so that memory which they hold comes back.
  template <class Give> Job run(Lane lane, Give&& give) {
    const Job job = begin(lane);
    try {
      give();
    } catch (...) {
      current_ = nullptr, there_ = nullptr;
      throw;
    }
    end();
    return job;
  }
  void join(Job);   // what the stream (or, in a job, its lane) is given from now on runs after that job
  void join_all();  // after every job
  Job job() const noexcept { return current_ ? last_ : 0; }  // that is being given; 0: none
  // Where launches go: the stream, in a job its lane.
  Stream& stream() noexcept { return there_ ? *there_ : main_; }

 private:
  static constexpr std::size_t kAhead = 4, kLanes = 3;
  struct Pending {
    Job job;
    std::optional<Event> end;  // none: it was done in the stream
  };
  struct Queue {
    std::unique_ptr<Stream> stream;  // made for the first job that runs in it
    std::deque<Pending> pending;     // not waited for yet, oldest first
    std::vector<Event> spare;        // to be recorded again
  };

  Job begin(Lane);
  void end();
  void wait_for_oldest(Queue&);  // the stream does; what nobody is at any more is free again

  Stream& main_;
  Arena& arena_;
  Event fork_;
  std::array<Queue, kLanes> queues_;
  Queue* current_ = nullptr;  // in which a job is being given
  Stream* there_ = nullptr;   // where that job runs, if not in the stream
  Job last_ = 0;
  bool beside_ = true;
};

}  // namespace engine
