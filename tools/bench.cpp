// bench: times against ceilings measured in the same run (docs/reference.md, "bench").
#include <cstdio>
#include <functional>
#include <vector>

#include "tools/bench_cpu.h"
#include "tools/bench_data.h"
#include "tools/bench_generate.h"
#include "tools/cli.h"

namespace {

struct Command {
  CLI::App* app;
  tools::Body run;
};

Command add_data(CLI::App& app, tools::BenchDataOptions& options) {
  CLI::App* data = app.add_subcommand("data", "from a packed dump to token ids, stage by stage");
  data->add_option("INPUT", options.inputs, "files, folders, - for standard input; none: a text made here")
      ->default_str("")
      ->type_name("");
  data->add_option("--vocab", options.vocab, "a vocab.txt; without it one is trained on the text")
      ->type_name("vocab.txt");
  tools::add_size(*data, "--bytes", options.bytes, 1, std::int64_t{1} << 40, "unpacked text, at least");
  tools::add_integer(*data, "--threads", options.threads, 1, 1024, "threads of the last row");
  tools::add_integer(*data, "--repeats", options.repeats, 1, 1000, "the best of so many counts");
  return {data, [&options] { return tools::bench_data(options), 0; }};
}

// The flags of a step's size, which the commands that time one share.
void add_step_flags(CLI::App& app, tools::BenchStep& options) {
  app.add_option("--preset", options.preset, "the model");
  tools::add_size(app, "-b,--batch", options.batch, 1, 1 << 20, "sequences")->default_str("the preset's");
  tools::add_size(app, "-t,--seq-len", options.length, 1, 1 << 30, "tokens of a sequence")
      ->default_str("the preset's");
  tools::add_size(app, "--vocab-size", options.vocab, 1, 1 << 24, "random ids below this")
      ->default_str("the preset's");
  tools::add_size(app, "--steps", options.steps, 1, 1 << 20, "the median of so many counts");
  tools::add_integer(app, "--threads", options.threads, 0, 4096,
                     "CPU threads; 0: all that this process may use");
}

Command add_cpu(CLI::App& app, tools::BenchStep& options) {
  CLI::App* cpu = app.add_subcommand("cpu", "a training step on the CPU, op by op");
  add_step_flags(*cpu, options);
  return {cpu, [&options] { return tools::bench_cpu(options), 0; }};
}

Command add_step(CLI::App& app, const char* name, const char* about, tools::BenchStep& options,
                 void (*run)(tools::BenchStep)) {
  CLI::App* step = app.add_subcommand(name, about);
  add_step_flags(*step, options);
  tools::add_size(*step, "--accum", options.accumulation, 1, 1 << 20, "micro-batches of a step")
      ->default_str("the preset's");
  tools::add_choice(*step, "--attn", options.attention, {"nsa", "dense"}, "attention")
      ->default_str("the preset's");
  tools::add_choice(*step, "--dtype", options.dtype, {"auto", "fp32", "bf16"}, "precision");
  tools::add_choice(*step, "-r,--recompute", options.recompute, {"none", "block"},
                    "what the backward pass computes again");
  step->add_option("--device", options.device, "auto, cpu, cuda or cuda:N");
  step->add_flag("--no-graph", options.no_graph, "launch kernel by kernel on a card");
  return {step, [&options, run] { return run(options), 0; }};
}

Command add_generate(CLI::App& app, tools::BenchStep& options) {
  CLI::App* generate = app.add_subcommand("generate", "tokens drawn after a prompt, and their samples");
  generate->add_option("--preset", options.preset, "the model");
  tools::add_size(*generate, "-N,--samples", options.batch, 1, 1 << 20, "side by side");
  tools::add_size(*generate, "-t,--seq-len", options.length, 1, 1 << 30, "tokens of the prompt");
  tools::add_size(*generate, "-n,--tokens", options.steps, 1, 1 << 20, "drawn by each sample");
  tools::add_size(*generate, "--vocab-size", options.vocab, 1, 1 << 24, "random ids below this")
      ->default_str("the preset's");
  tools::add_choice(*generate, "--attn", options.attention, {"nsa", "dense"}, "attention")
      ->default_str("the preset's");
  tools::add_choice(*generate, "--dtype", options.dtype, {"auto", "fp32", "bf16"}, "precision");
  generate->add_option("--device", options.device, "auto, cpu, cuda or cuda:N");
  tools::add_integer(*generate, "--threads", options.threads, 0, 4096,
                     "CPU threads; 0: all that this process may use");
  return {generate, [&options] { return tools::bench_generate(options), 0; }};
}

}  // namespace

int main(int argc, char** argv) {
  tools::BenchDataOptions data;
  data.threads = tools::default_threads();
  tools::BenchStep cpu, step, ops, generate;
  cpu.batch = 4, cpu.length = 256, cpu.accumulation = 1, cpu.vocab = 21128, cpu.steps = 5;
  generate.batch = 1, generate.length = 64, generate.steps = 128;
  return tools::run_tool(
      "bench", "Times against ceilings measured in the same run.", argc, argv,
      [&](CLI::App& app) -> tools::Body {
        app.require_subcommand(0, 1)->fallthrough();
        const std::vector<Command> commands{
            add_data(app, data), add_cpu(app, cpu),
            add_step(app, "step", "a training step on random tokens, whole", step, tools::bench_step),
            add_step(app, "ops", "a training step on random tokens, op by op", ops, tools::bench_ops),
            add_generate(app, generate)};
        return [commands] {
          for (const Command& command : commands)
            if (command.app->parsed()) return command.run();
          engine::fail(engine::Exit::usage,
                       "no command given, expected data, cpu, ops, step or generate; see --help");
        };
      });
}
