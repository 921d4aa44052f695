// Private to the runtime: what a recorded graph clears.
#pragma once
#include "kernels/types.h"

struct CUgraph_st;

namespace k {

// Turns a graph's small fills into kernels. Products have the library clear a counter in front of them, and a
// fill of a graph waits some 4 us before and after, where a kernel waits 0.5.
Status fills_to_kernels(CUgraph_st* graph) noexcept;

}  // namespace k
