// bench: times against ceilings measured in the same run (docs/reference.md, "bench").
#include <cstdio>
#include <functional>
#include <vector>

#include "tools/bench_cpu.h"
#include "tools/bench_data.h"
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

Command add_cpu(CLI::App& app, tools::BenchCpu& options) {
  CLI::App* cpu = app.add_subcommand("cpu", "a training step on the CPU, op by op");
  cpu->add_option("--preset", options.preset, "the model");
  tools::add_size(*cpu, "-b,--batch", options.batch, 1, 1 << 20, "sequences");
  tools::add_size(*cpu, "-t,--seq-len", options.length, 1, 1 << 30, "tokens of a sequence");
  tools::add_size(*cpu, "--vocab-size", options.vocab, 1, 1 << 24, "random ids below this");
  tools::add_size(*cpu, "--steps", options.steps, 1, 1 << 20, "the median of so many counts");
  tools::add_integer(*cpu, "--threads", options.threads, 0, 4096,
                     "CPU threads; 0: all that this process may use");
  return {cpu, [&options] { return tools::bench_cpu(options), 0; }};
}

}  // namespace

int main(int argc, char** argv) {
  tools::BenchDataOptions data;
  data.threads = tools::default_threads();
  tools::BenchCpu cpu;
  return tools::run_tool("bench", "Times against ceilings measured in the same run.", argc, argv,
                         [&](CLI::App& app) -> tools::Body {
                           app.require_subcommand(0, 1)->fallthrough();
                           const std::vector<Command> commands{add_data(app, data), add_cpu(app, cpu)};
                           return [commands] {
                             for (const Command& command : commands)
                               if (command.app->parsed()) return command.run();
                             engine::fail(engine::Exit::usage,
                                          "no command given, expected data or cpu; see --help");
                           };
                         });
}
