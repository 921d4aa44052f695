#include "tools/bench_cpu.h"

#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "engine/rng.h"
#include "model/trainer.h"
#include "tools/cli.h"
#include "tools/console.h"
#include "tools/format.h"

namespace tools {
namespace {

struct Ceilings {
  double flops = 0, bytes = 0;  // a second
};

template <class F> double best_seconds(int repeats, F&& f) {
  double best = 1e30;
  for (int i = 0; i < repeats; i++) {
    const auto start = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// What this machine does at best with these threads: one large product by BLAS itself, and a pass over memory
// far larger than the caches that reads and writes every byte.
Ceilings measure_ceilings() {
  constexpr int kSide = 2048, kRepeats = 5;
  constexpr std::size_t kFloats = std::size_t(64) << 20;
  std::vector<float> a(std::size_t(kSide) * kSide, 1.f), b(a), c(a), memory(kFloats, 1.f);
  const double product = best_seconds(kRepeats, [&] {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, kSide, kSide, kSide, 1, a.data(), kSide, b.data(),
                kSide, 0, c.data(), kSide);
  });
  const double pass = best_seconds(kRepeats, [&] {
#pragma omp parallel for simd schedule(static)
    for (std::size_t i = 0; i < kFloats; i++) memory[i] = memory[i] * 0.5f + 1.f;
  });
  return {2. * kSide * kSide * kSide / product, 2. * double(kFloats * sizeof(float)) / pass};
}

struct StepTimes {
  double seconds = 0;       // of a whole step, the median
  engine::Profile profile;  // of `profiled` more steps
  std::int64_t profiled = 0;
  double flops_per_token = 0;  // of the model (docs/model.md), not of what the kernels happen to do
};

StepTimes time_steps(const BenchCpu& options, const model::GptConfig& config) {
  engine::Stream stream{engine::Device{}};
  engine::ParamStore store(stream.device(), engine::DType::f32);
  model::Gpt gpt(config, store);
  store.seal(true);
  store.initialize(1, stream);
  engine::AdamW optimizer(store, {});
  model::Trainer trainer(gpt, store, optimizer, stream, options.batch, options.length);

  const engine::Rng rng{1};
  std::vector<std::int32_t> ids(std::size_t(options.batch * options.length)), targets(ids.size());
  for (std::size_t i = 0; i < ids.size(); i++) {
    ids[i] = std::int32_t(rng.uniform(0, i) * double(config.vocab));
    targets[i] = std::int32_t(rng.uniform(1, i) * double(config.vocab));
  }
  const model::MicroBatch batch{ids, targets};
  std::int64_t step = 0;
  const auto one = [&] { trainer.step(std::span(&batch, 1), ++step, 1e-4); };

  StepTimes times;
  one();  // touches the memory
  std::vector<double> seconds;
  for (std::int64_t i = 0; i < options.steps; i++) seconds.push_back(best_seconds(1, one));
  std::nth_element(seconds.begin(), seconds.begin() + options.steps / 2, seconds.end());
  times.seconds = seconds[std::size_t(options.steps / 2)];
  trainer.measure(&times.profile);
  for (std::int64_t i = 0; i < options.steps; i++) one();
  times.profiled = options.steps;
  times.flops_per_token = gpt.flops_per_token(options.length);
  return times;
}

void print_ops(const StepTimes& times, const Ceilings& ceilings) {
  std::vector<std::pair<std::string_view, engine::Profile::Total>> ops(times.profile.totals().begin(),
                                                                       times.profile.totals().end());
  std::sort(ops.begin(), ops.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  print("{:<30} {:>6} {:>9} {:>7} {:>9} {:>7} {:>7} {:>7}\n", "op", "calls", "ms", "% step", "GFLOP/s",
        "% gemm", "GB/s", "% mem");
  const double steps = double(times.profiled);
  for (const auto& [name, total] : ops) {
    const double rate = total.cost.flops / total.seconds, traffic = total.cost.bytes / total.seconds;
    print("{:<30} {:>6} {:>9.2f} {:>7.1f} {:>9.1f} {:>7.1f} {:>7.1f} {:>7.1f}\n", name,
          total.launches / times.profiled, 1e3 * total.seconds / steps,
          100 * total.seconds / steps / times.seconds, rate / 1e9, 100 * rate / ceilings.flops, traffic / 1e9,
          100 * traffic / ceilings.bytes);
  }
}

void print_step(const char* name, const BenchCpu& options, const StepTimes& times, const Ceilings& ceilings) {
  const double tokens = double(options.batch * options.length);
  const double rate = times.flops_per_token * tokens / times.seconds;
  print("step, {:<23} {:>9.1f} ms, {} tok/s, {:.1f} GFLOP/s = {:.1f} % of sgemm\n", name, 1e3 * times.seconds,
        with_commas(std::int64_t(tokens / times.seconds)), rate / 1e9, 100 * rate / ceilings.flops);
}

}  // namespace

void bench_cpu(const BenchCpu& options) {
  use_threads(options.threads);
  model::GptConfig config = model::find_preset(options.preset).config;
  config.vocab = options.vocab;
  config.context = options.length;
  config.validate();
  print("bench cpu: {}; preset {}, {} x {} tokens, vocabulary {}\n", engine::device_name({}), options.preset,
        options.batch, options.length, with_commas(options.vocab));
  const Ceilings ceilings = measure_ceilings();
  print("ceilings: sgemm {:.1f} GFLOP/s, memory {:.1f} GB/s (best of 5)\n", ceilings.flops / 1e9,
        ceilings.bytes / 1e9);
  const StepTimes times = time_steps(options, config);
  print_ops(times, ceilings);
  const bool sparse = config.attention == model::Attention::nsa;
  print_step(sparse ? "sparse attention" : "dense attention", options, times, ceilings);
  if (!sparse) return;
  config.attention = model::Attention::dense;
  const StepTimes dense = time_steps(options, config);
  print_step("dense attention", options, dense, ceilings);
  print("sparse / dense: {:.2f}\n", times.seconds / dense.seconds);
}

}  // namespace tools
