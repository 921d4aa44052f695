#include "tools/bench_step.h"

#include <algorithm>
#include <vector>

#include "engine/rng.h"
#include "model/trainer.h"
#include "tools/cli.h"
#include "tools/console.h"
#include "tools/format.h"

namespace tools {
namespace {

constexpr int kRepeats = 5;

template <class F> double best_seconds(engine::Stream& stream, F&& f) {
  double best = 1e30;
  engine::Event start(stream.device()), end(stream.device());
  for (int i = 0; i <= kRepeats; i++) {  // the first warms up
    start.record(stream);
    f();
    end.record(stream);
    const double seconds = end.seconds_since(start);
    if (i > 0) best = std::min(best, seconds);
  }
  return best;
}

std::uint64_t bytes_of(const engine::ParamStore& store, const model::Trainer& trainer) {
  const std::uint64_t values = store.values().bytes(), gradients = store.grads().bytes();
  const std::uint64_t masters = store.dtype() == engine::DType::f32 ? 0 : store.masters().bytes();
  return values + masters + 3 * gradients + trainer.activation_bytes();
}

}  // namespace

engine::DType dtype_of(const std::string& name, engine::Device device) {
  const bool bf16 = name == "bf16" || (name == "auto" && engine::has_fast_bf16(device));
  engine::require(!bf16 || device.kind == engine::DeviceKind::cuda, engine::Exit::usage,
                  "--dtype bf16: the CPU computes in fp32; use --dtype fp32 or auto");
  return bf16 ? engine::DType::bf16 : engine::DType::f32;
}

// One large product, and a sum of two arrays far larger than the caches.
Ceilings measure_ceilings(engine::Stream& stream, engine::DType dtype) {
  const bool card = stream.device().kind == engine::DeviceKind::cuda;
  const std::int64_t side = card ? 8192 : 2048, count = std::int64_t(card ? 128 : 32) << 20;
  engine::ParamStore store(stream.device(), dtype);
  const auto start = engine::Init::uniform(0.1f);
  engine::Param& left = store.add("left", {side, side}, start);
  engine::Param& right = store.add("right", {side, side}, start);
  store.seal(false);
  store.initialize(1, stream);
  const auto array = [&] {
    const auto made = engine::Tensor::persistent(stream.device(), {count}, engine::DType::f32);
    stream.fill(made.data(), 1, made.bytes());
    return made;
  };
  const engine::Tensor a = array(), b = array();

  engine::Arena arena(stream.device());
  engine::Context context{stream, arena};
  engine::Tape tape(context, engine::Tape::Mode::infer);
  const auto product = [&] { engine::ops::linear(tape, left.value, right); };
  const auto pass = [&] { engine::ops::add(tape, a, b); };
  product();
  pass();
  arena.commit();
  const double cube = double(side) * double(side) * double(side);
  return {.product = dtype == engine::DType::bf16 ? "bf16 gemm" : "sgemm",
          .flops = 2 * cube / best_seconds(stream, product),
          .bytes = 3 * double(a.bytes()) / best_seconds(stream, pass)};
}

StepTimes time_steps(const BenchStep& options, const model::GptConfig& config, engine::Stream& stream,
                     engine::DType dtype) {
  engine::ParamStore store(stream.device(), dtype);
  model::Gpt gpt(config, store,
                 options.recompute == "block" ? model::Recompute::block : model::Recompute::none);
  store.seal(true);
  store.initialize(1, stream);
  engine::AdamW optimizer(store, {});
  model::Trainer trainer(
      gpt, store, optimizer, stream,
      {.batch = options.batch, .length = options.length, .micro_batches = options.accumulation});
  trainer.use_graphs(!options.no_graph);

  const engine::Rng rng{1};
  std::vector<std::int32_t> ids(std::size_t(options.batch * options.length)), targets(ids.size());
  for (std::size_t i = 0; i < ids.size(); i++) {
    ids[i] = std::int32_t(rng.uniform(0, i) * double(config.vocab));
    targets[i] = std::int32_t(rng.uniform(1, i) * double(config.vocab));
  }
  const std::vector<model::MicroBatch> batches(std::size_t(options.accumulation),
                                               model::MicroBatch{ids, targets});
  std::int64_t step = 0;
  for (int i = 0; i < 3; i++) trainer.step(batches, ++step, 1e-4);  // plans, graphs, first touch

  // As training does it: the next step is queued before the last one's figures are read.
  StepTimes times;
  std::vector<double> seconds;
  engine::Event start(stream.device()), end(stream.device());
  std::vector<engine::Event> ends;
  start.record(stream);
  for (std::int64_t i = 0; i < options.steps; i++) {
    trainer.submit(batches, ++step, 1e-4);
    ends.emplace_back(stream.device()).record(stream);
    if (trainer.under_way() > 1) trainer.finish();
  }
  while (trainer.under_way() > 0) trainer.finish();
  for (std::size_t i = 0; i < ends.size(); i++)
    seconds.push_back(ends[i].seconds_since(i == 0 ? start : ends[i - 1]));
  std::nth_element(seconds.begin(), seconds.begin() + options.steps / 2, seconds.end());
  times.seconds = seconds[std::size_t(options.steps / 2)];

  times.kernels = engine::kernel_times(stream.device(), [&] { trainer.step(batches, ++step, 1e-4); });
  engine::Profile profile;
  trainer.measure(&profile);
  times.profiled = std::min<std::int64_t>(options.steps, 3);
  for (std::int64_t i = 0; i < times.profiled; i++) trainer.step(batches, ++step, 1e-4);
  times.ops = profile.totals();
  for (const auto& [name, total] : times.ops) {
    times.launches += total.launches / times.profiled;
    times.op_seconds += total.seconds / double(times.profiled);
  }
  times.flops_per_token = gpt.flops_per_token(options.length);
  times.plan_bytes = bytes_of(store, trainer);
  return times;
}

void print_kernels(const engine::KernelTimes& times, double step_seconds) {
  std::vector<std::pair<std::string, engine::KernelTime>> rows(times.kernels.begin(), times.kernels.end());
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  print("{:<70} {:>6} {:>9} {:>9} {:>7}\n", "kernel", "calls", "ms", "us/call", "% step");
  for (const auto& [name, time] : rows)
    print("{:<70.70} {:>6} {:>9.3f} {:>9.1f} {:>7.1f}\n", name, time.launches, 1e3 * time.seconds,
          1e6 * time.seconds / double(time.launches), 100 * time.seconds / step_seconds);
}

void print_ceilings(const Ceilings& ceilings) {
  print("ceilings: {} {:.1f} GFLOP/s, memory {:.1f} GB/s (best of {})\n", ceilings.product,
        ceilings.flops / 1e9, ceilings.bytes / 1e9, kRepeats);
}

void print_ops(const StepTimes& times, const Ceilings& ceilings) {
  print("{}", op_table(times.ops, times.profiled, times.seconds, &ceilings));
}

void print_step(const char* name, const BenchStep& options, const StepTimes& times,
                const Ceilings& ceilings) {
  const double tokens = double(options.batch * options.length * options.accumulation);
  const double rate = times.flops_per_token * tokens / times.seconds;
  print("step, {:<23} {:>9.3f} ms, {} tok/s, {:.1f} GFLOP/s = {:.1f} % of {}; plan {:.1f} MiB\n", name,
        1e3 * times.seconds, with_commas(std::int64_t(tokens / times.seconds)), rate / 1e9,
        100 * rate / ceilings.flops, ceilings.product, double(times.plan_bytes) / (1 << 20));
}

model::GptConfig resolve(BenchStep& options) {
  const model::Preset& preset = model::find_preset(options.preset);
  model::GptConfig config = preset.config;
  if (options.attention == "dense") config.attention = model::Attention::dense;
  if (options.attention == "nsa") config.attention = model::Attention::nsa;
  if (options.vocab > 0) config.vocab = options.vocab;
  options.vocab = config.vocab;
  if (options.length == 0) options.length = config.context;
  if (options.batch == 0) options.batch = preset.batch;
  if (options.accumulation == 0) options.accumulation = preset.accumulation;
  config.context = options.length;
  config.validate();
  return config;
}

namespace {

struct Measured {
  Ceilings ceilings;
  StepTimes times;
};

Measured measure(const char* command, BenchStep& options) {
  use_threads(options.threads);
  const model::GptConfig config = resolve(options);
  engine::Stream stream(engine::parse_device(options.device));
  const engine::DType dtype = dtype_of(options.dtype, stream.device());
  print("bench {}: {}, {}; preset {}, {} x {} x {} tokens, vocabulary {}\n", command,
        engine::device_name(stream.device()), dtype == engine::DType::bf16 ? "bf16" : "fp32", options.preset,
        options.accumulation, options.batch, options.length, with_commas(options.vocab));
  Measured measured{measure_ceilings(stream, dtype), {}};
  print_ceilings(measured.ceilings);
  measured.times = time_steps(options, config, stream, dtype);
  return measured;
}

const char* attention_of(const BenchStep& options) {
  BenchStep copy = options;
  return resolve(copy).attention == model::Attention::nsa ? "sparse attention" : "dense attention";
}

}  // namespace

void bench_step(BenchStep options) {
  const Measured measured = measure("step", options);
  print_step(attention_of(options), options, measured.times, measured.ceilings);
  print("ops         {} a step, {:.3f} ms one by one\n", measured.times.launches,
        1e3 * measured.times.op_seconds);
  if (!measured.times.kernels) return;
  engine::KernelTime all;
  for (const auto& [name, time] : measured.times.kernels->kernels) {
    all.seconds += time.seconds;
    all.launches += time.launches;
  }
  const double busy = measured.times.kernels->busy_seconds;
  print(
      "kernels     {} a step, {:.3f} ms one by one; at least one runs for {:.3f} ms = {:.1f} % of the step\n",
      all.launches, 1e3 * all.seconds, 1e3 * busy, 100 * busy / measured.times.seconds);
}

void bench_ops(BenchStep options) {
  const Measured measured = measure("ops", options);
  print_ops(measured.times, measured.ceilings);
  if (measured.times.kernels) print_kernels(*measured.times.kernels, measured.times.seconds);
  print_step(attention_of(options), options, measured.times, measured.ceilings);
}

}  // namespace tools
