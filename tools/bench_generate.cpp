#include "tools/bench_generate.h"

#include <algorithm>

#include "engine/rng.h"
#include "model/generator.h"
#include "tools/cli.h"
#include "tools/console.h"
#include "tools/format.h"

namespace tools {

void bench_generate(BenchStep options) {
  use_threads(options.threads);
  const model::GptConfig config = resolve(options);
  engine::Stream stream(engine::parse_device(options.device));
  const engine::DType dtype = dtype_of(options.dtype, stream.device());
  print("bench generate: {}, {}; preset {}, {} x {} tokens after a prompt of {}, vocabulary {}\n",
        engine::device_name(stream.device()), dtype == engine::DType::bf16 ? "bf16" : "fp32", options.preset,
        options.batch, options.steps, options.length, with_commas(options.vocab));
  const Ceilings ceilings = measure_ceilings(stream, dtype);
  print_ceilings(ceilings);

  engine::ParamStore store(stream.device(), dtype);
  const model::Gpt gpt(config, store);
  store.seal(false);
  store.initialize(1, stream);
  constexpr std::int64_t kWarm = 8;  // plans, graphs, first touch
  model::Generator generator(gpt, stream, options.batch, options.length + kWarm + options.steps + 1, {});
  std::vector<std::int32_t> prompt(std::size_t(options.length));
  for (std::size_t i = 0; i < prompt.size(); i++)
    prompt[i] = std::int32_t(engine::Rng{1}.uniform(0, i) * double(config.vocab));

  engine::Event start(stream.device()), read(stream.device()), begin(stream.device()), end(stream.device());
  generator.start(prompt);
  start.record(stream);
  generator.start(prompt);
  read.record(stream);
  for (std::int64_t i = 0; i < kWarm; i++) generator.draw();
  begin.record(stream);
  for (std::int64_t i = 0; i < options.steps; i++) generator.draw();
  end.record(stream);

  const double seconds = end.seconds_since(begin) / double(options.steps);
  const double rate = double(options.batch) / seconds;
  // Every weight but the embedding's is read once a step, whatever the number of samples.
  const double table = config.tied ? 0 : double(config.vocab * config.width);
  const double weights = (double(store.values().numel()) - table) * double(k::size_of(dtype));
  print("prompt      {:>9.3f} ms\n", 1e3 * read.seconds_since(start));
  print(
      "token       {:>9.4f} ms, {} tok/s; the weights' {:.1f} MB at {:.1f} GB/s = {:.1f} % of memory's "
      "rate\n",
      1e3 * seconds, with_commas(std::int64_t(rate)), weights / 1e6, weights / seconds / 1e9,
      100 * weights / seconds / ceilings.bytes);
  const auto kernels = engine::kernel_times(stream.device(), [&] { generator.draw(); });
  if (kernels) print_kernels(*kernels, seconds);
}

}  // namespace tools
