#include "kernels/kernel_trace.h"

#include <cupti.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include "kernels/cuda.cuh"

namespace k {
namespace {

constexpr std::size_t kBufferBytes = std::size_t(4) << 20;
constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                                         CUPTI_ACTIVITY_KIND_MEMSET};

// CUPTI's callbacks carry no pointer of their own, so what they collect belongs to the process.
struct Collected {
  std::mutex mutex;
  std::map<std::string, KernelTime> kernels;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> spans;  // [start, end) in nanoseconds
};
Collected& collected() {
  static Collected only;
  return only;
}

Status status_of(CUptiResult result) noexcept {
  if (result == CUPTI_SUCCESS) return {};
  const char* what = "CUPTI failed";
  cuptiGetResultString(result, &what);
  return {int(result), what};
}

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* records) {
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *size = *buffer ? kBufferBytes : 0;
  *records = 0;  // as many as fit
}

template <class Activity> void add(const CUpti_Activity* record, const char* name, Collected& all) {
  const auto* activity = reinterpret_cast<const Activity*>(record);
  KernelTime& time = all.kernels[name];
  time.seconds += 1e-9 * double(activity->end - activity->start);
  time.launches++;
  all.spans.emplace_back(activity->start, activity->end);
}

// Kernels run beside one another; what two share counts once.
double busy_seconds(std::vector<std::pair<std::uint64_t, std::uint64_t>> spans) {
  std::sort(spans.begin(), spans.end());
  std::uint64_t covered = 0, until = 0;
  for (const auto& [start, end] : spans) {
    if (end <= until) continue;
    covered += end - std::max(start, until);
    until = end;
  }
  return 1e-9 * double(covered);
}

void CUPTIAPI take_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t, std::size_t valid) {
  Collected& all = collected();
  const std::lock_guard lock(all.mutex);
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) switch (record->kind) {
      case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL:
        add<CUpti_ActivityKernel9>(record, reinterpret_cast<const CUpti_ActivityKernel9*>(record)->name, all);
        break;
      case CUPTI_ACTIVITY_KIND_MEMCPY: add<CUpti_ActivityMemcpy6>(record, "copy", all); break;
      case CUPTI_ACTIVITY_KIND_MEMSET: add<CUpti_ActivityMemset4>(record, "fill", all); break;
      default: break;
    }
  std::free(buffer);
}

}  // namespace

Status kernel_trace_begin() noexcept {
  collected().kernels.clear();
  collected().spans.clear();
  if (auto status = status_of(cuptiActivityRegisterCallbacks(give_buffer, take_buffer)); !status.ok())
    return status;
  for (CUpti_ActivityKind kind : kKinds)
    if (auto status = status_of(cuptiActivityEnable(kind)); !status.ok()) return status;
  return {};
}

Status kernel_trace_end(KernelTrace& trace) noexcept {
  const Status done = k::status_of(cudaDeviceSynchronize());
  const Status flushed = status_of(cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED));
  for (CUpti_ActivityKind kind : kKinds) cuptiActivityDisable(kind);
  trace = {std::move(collected().kernels), busy_seconds(std::move(collected().spans))};
  return done.ok() ? flushed : done;
}

}  // namespace k
