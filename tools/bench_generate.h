// Generation of random tokens by an untrained model: its speed does not depend on what is said.
#pragma once
#include "tools/bench_step.h"

namespace tools {

// options.batch samples, a prompt of options.length tokens, options.steps tokens drawn.
void bench_generate(BenchStep options);

}  // namespace tools
