// `bench step` and `bench ops`: a training step on random tokens, whole and op by op, against ceilings
// measured in the same run.
#pragma once
#include <cstdint>
#include <string>

#include "engine/kernel_time.h"
#include "engine/profile.h"
#include "model/config.h"
#include "tools/op_table.h"

namespace tools {

struct BenchStep {
  std::string preset = "seed", attention, device = "auto", dtype = "auto", recompute = "none";
  std::int64_t batch = 0, length = 0, accumulation = 0;  // 0: the preset's
  std::int64_t vocab = 0;                                // random ids below this; 0: the preset's
  std::int64_t steps = 10;                               // of which the median is reported
  std::int64_t threads = 0;                              // 0: all that this process may use
  bool no_graph = false;
};

// "auto", "fp32" or "bf16" there. Throws Error(usage) for bf16 on the CPU.
engine::DType dtype_of(const std::string& name, engine::Device);
Ceilings measure_ceilings(engine::Stream&, engine::DType);

struct StepTimes {
  double seconds = 0;     // of a whole step, the median
  double op_seconds = 0;  // the sum over the ops of one step, timed one by one
  std::map<std::string_view, engine::Profile::Total> ops;  // of `profiled` steps
  std::int64_t profiled = 0, launches = 0;                 // launches: of one step
  std::optional<engine::KernelTimes> kernels;              // of one step under the graph
  double flops_per_token = 0;    // of the model (docs/model.md), not of what the kernels happen to do
  std::uint64_t plan_bytes = 0;  // parameters, gradients, optimizer and activations
};
StepTimes time_steps(const BenchStep&, const model::GptConfig&, engine::Stream&, engine::DType);

void print_ceilings(const Ceilings&);
void print_ops(const StepTimes&, const Ceilings&);
// What the card itself counted, the costliest first.
void print_kernels(const engine::KernelTimes&, double step_seconds);
void print_step(const char* name, const BenchStep&, const StepTimes&, const Ceilings&);

// With what is 0 taken from the preset, and the model it makes.
model::GptConfig resolve(BenchStep&);
void bench_step(BenchStep);
void bench_ops(BenchStep);

}  // namespace tools
