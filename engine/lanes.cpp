#include "engine/lanes.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace engine {

Lanes::Lanes(Stream& stream, Arena& arena) : main_(stream), arena_(arena), fork_(stream.device()) {}

Lanes::Job Lanes::begin(Lane lane) {
  if (main_.device().kind == DeviceKind::cpu) return 0;
  if (current_) throw std::logic_error("lanes: a job in a job");
  Queue& queue = queues_[std::size_t(lane)];
  if (queue.pending.size() == kAhead) wait_for_oldest(queue);
  if (beside_ && arena_.committed()) {  // a rehearsal launches nothing
    if (!queue.stream) queue.stream = std::make_unique<Stream>(Stream::beside(main_));
    fork_.record(main_);
    queue.stream->follow(fork_);
    there_ = queue.stream.get();
  }
  current_ = &queue;
  arena_.begun(++last_);
  return last_;
}

void Lanes::end() {
  if (!current_) return;
  Queue& queue = *std::exchange(current_, nullptr);
  Pending& job = queue.pending.emplace_back(Pending{last_, std::nullopt});
  if (!std::exchange(there_, nullptr)) return;
  if (queue.spare.empty()) {
    job.end.emplace(main_.device());
  } else {
    job.end = std::move(queue.spare.back());
    queue.spare.pop_back();
  }
  job.end->record(*queue.stream);
}

void Lanes::wait_for_oldest(Queue& queue) {
  if (auto& end = queue.pending.front().end) {
    main_.follow(*end);  // this one's end is also that of the lane's jobs before it
    queue.spare.push_back(*std::move(end));
  }
  queue.pending.pop_front();
  Job over = last_;
  for (const Queue& q : queues_)
    if (!q.pending.empty()) over = std::min(over, q.pending.front().job - 1);
  arena_.over(over);
}

void Lanes::join(Job job) {
  for (Queue& queue : queues_) {
    const auto found = std::find_if(queue.pending.begin(), queue.pending.end(),
                                    [job](const Pending& pending) { return pending.job == job; });
    if (found == queue.pending.end()) continue;
    if (current_) {
      if (current_ != &queue && found->end) stream().follow(*found->end);
      return;
    }
    while (!queue.pending.empty() && queue.pending.front().job <= job) wait_for_oldest(queue);
    return;
  }
}

void Lanes::join_all() {
  for (Queue& queue : queues_)
    while (!queue.pending.empty()) wait_for_oldest(queue);
}

}  // namespace engine
