// `bench cpu`: a training step on the CPU, op by op, against ceilings measured in the same run.
#pragma once
#include <cstdint>
#include <string>

namespace tools {

struct BenchCpu {
  std::string preset = "seed";
  std::int64_t batch = 4, length = 256, vocab = 21128;  // random tokens: [batch, length] ids below vocab
  std::int64_t steps = 5;                               // of which the median is reported
  std::int64_t threads = 0;                             // 0: all that this process may use
};

// Prints the ceilings (sgemm, and reading and writing memory; best of several), a row for each op of the
// preset's step, the step itself, and the same step with dense attention.
void bench_cpu(const BenchCpu&);

}  // namespace tools
