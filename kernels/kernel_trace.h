// How long a card's kernels and copies ran, launch by launch, by the clock of the card: CUPTI's activity
// records. For CUDA builds only; used by bench.
#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "kernels/types.h"

namespace k {

struct KernelTime {  // the launches of one kernel, or all copies, or all fills
  double seconds = 0;
  std::int64_t launches = 0;
};
struct KernelTrace {
  std::map<std::string, KernelTime> kernels;  // by the kernel's name in the object file
  double busy_seconds = 0;                    // in which at least one of them ran
};

// Between begin and end every kernel of this process is recorded, also those of graphs. The recording itself
// makes the gaps between kernels longer, not the kernels. One trace at a time in a process, as CUPTI has it.
Status kernel_trace_begin() noexcept;
Status kernel_trace_end(KernelTrace&) noexcept;  // waits for the card

}  // namespace k
