#include "tools/bench_cpu.h"

#include "tools/cli.h"
#include "tools/console.h"
#include "tools/format.h"

namespace tools {

void bench_cpu(BenchStep options) {
  use_threads(options.threads);
  model::GptConfig config = resolve(options);
  engine::Stream stream{engine::Device{}};
  print("bench cpu: {}; preset {}, {} x {} tokens, vocabulary {}\n", engine::device_name(stream.device()),
        options.preset, options.batch, options.length, with_commas(options.vocab));
  const Ceilings ceilings = measure_ceilings(stream, engine::DType::f32);
  print_ceilings(ceilings);
  const StepTimes times = time_steps(options, config, stream, engine::DType::f32);
  print_ops(times, ceilings);
  const bool sparse = config.attention == model::Attention::nsa;
  print_step(sparse ? "sparse attention" : "dense attention", options, times, ceilings);
  if (!sparse) return;
  config.attention = model::Attention::dense;
  const StepTimes dense = time_steps(options, config, stream, engine::DType::f32);
  print_step("dense attention", options, dense, ceilings);
  print("sparse / dense: {:.2f}\n", times.seconds / dense.seconds);
}

}  // namespace tools
