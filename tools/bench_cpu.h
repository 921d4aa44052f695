// `bench cpu`: a training step on the CPU, op by op, against ceilings measured in the same run.
#pragma once
#include "tools/bench_step.h"

namespace tools {

// Prints the ceilings, a row for each op of the preset's step, the step itself, and the same step with dense
// attention.
void bench_cpu(BenchStep);

}  // namespace tools
