// train_gpt: a token file -> a trained model (docs/reference.md).
#include <filesystem>

#include "data/interrupt.h"
#include "tools/checkpoint_files.h"
#include "tools/cli.h"
#include "tools/console.h"
#include "tools/train_data.h"
#include "tools/train_flags.h"
#include "tools/train_run.h"

namespace {

using engine::Exit;
using engine::fail;
using engine::require;
using tools::exists;
using tools::Resume;
using tools::TrainFlags;

// Parses the command line once more over the flags that the checkpoint kept: what is stated wins.
TrainFlags over(TrainFlags base, int argc, char** argv) {
  CLI::App app;
  tools::declare(app, base);
  tools::settle(app);
  app.parse(argc, argv);
  return base;
}

void list_devices() {
  tools::write_out(fmt::format("cpu: {}\n", engine::device_name({})));
  for (int i = 0; i < engine::cuda_device_count(); i++)
    tools::write_out(fmt::format("cuda:{}: {}\n", i, engine::device_name({engine::DeviceKind::cuda, i})));
}

// What a run writes must be none of what it reads, which would be lost. To start from weights and replace
// them is all right.
void check_outputs(const TrainFlags& flags) {
  namespace fs = std::filesystem;
  const auto same = [](const std::string& a, const std::string& b) {  // one of them need not exist yet
    std::error_code absent;
    return !b.empty() &&
           (fs::path(a).lexically_normal() == fs::path(b).lexically_normal() || fs::equivalent(a, b, absent));
  };
  const auto check = [&](const char* flag, const std::string& output, const std::string& other) {
    require(!same(output, other), Exit::usage, "{} {}: is also another file of this run; name a new one",
            flag, output);
  };
  const std::string log = flags.log.empty() ? tools::beside(flags.out, ".log.jsonl").string() : flags.log;
  std::vector<std::string> inputs = {flags.validation_data};
  for (const tools::DataSource& source : tools::parse_data(flags.data)) inputs.push_back(source.path);
  for (const std::string& input : inputs) {
    check("-o", flags.out, input);
    check("--log", log, input);
  }
  check("--log", log, flags.init_from);
  check("--log", log, flags.out);
}

std::optional<tools::Resumed> open_resumed(const TrainFlags& flags) {
  if (flags.resume == Resume::no) return std::nullopt;
  if (!exists(flags.out)) {
    require(flags.resume == Resume::automatic, Exit::checkpoint,
            "--resume: there is no {}; name the checkpoint with -o, or use --resume=auto to start where "
            "there is none",
            flags.out);
    tools::say("resume: no {}, starting anew\n", flags.out);
    return std::nullopt;
  }
  auto checkpoint = std::make_unique<engine::Checkpoint>(flags.out);
  require(checkpoint->has_optimizer(), Exit::checkpoint,
          "{}: holds weights only, nothing to --resume; start from it with --init-from, and -o another file",
          flags.out);
  auto saved = tools::saved_state_from_json(checkpoint->state(), checkpoint->path());
  return tools::Resumed{std::move(checkpoint), std::move(saved)};
}

// Says so where a resumed run is finished, or has come as far as --stop-at.
bool nothing_to_do(const tools::TrainState& state, const TrainFlags& flags) {
  if (state.evaluation_due) return false;
  if (state.step >= flags.steps)
    tools::say("{}: the run is finished: {} of {} steps are done; ./sample -c {}\n", flags.out, state.step,
               flags.steps, flags.out);
  else if (flags.stop_at > 0 && state.step >= flags.stop_at)
    tools::say("{}: {} steps are done, --stop-at {} asks for no more\n", flags.out, state.step,
               flags.stop_at);
  else return false;
  return true;
}

int train(TrainFlags flags, int argc, char** argv) {
  if (flags.list_devices) return list_devices(), tools::flush_out(), 0;
  if (flags.preset == "list") {
    for (const auto& preset : model::presets())
      tools::write_out(fmt::format("{:<10} {}\n", preset.name, preset.about));
    return tools::flush_out(), 0;
  }
  const data::Interrupt interrupt;  // before the first thread starts, so that all hold the signals back
  require(flags.resume != Resume::required || flags.init_from.empty(), Exit::usage,
          "--resume and --init-from exclude each other: the first continues a run, the second starts one");
  auto resumed = open_resumed(flags);
  if (resumed) flags = over(resumed->saved.flags, argc, argv);
  tools::use_threads(flags.threads);
  const bool planning = flags.plan_only || flags.dry_run;  // writes nothing, so no output can be in the way
  require(!flags.data.empty(), Exit::usage,
          "-d is missing: give the token file that ./prepare made, e.g. -d zhwiki.bin");
  require(!tools::is_bare_number(flags.data), Exit::usage,
          "-d {}: expected a token file made by ./prepare, got a number (the batch size is -b)", flags.data);
  check_outputs(flags);
  require(planning || !exists(flags.out) || std::filesystem::is_regular_file(flags.out), Exit::usage,
          "-o {}: exists and is not a regular file; name another", flags.out);
  require(planning || resumed || flags.overwrite || !exists(flags.out), Exit::usage,
          "{}: exists; continue it with --resume, replace it with --overwrite, or name another with -o",
          flags.out);
  tools::TokenFiles files = tools::open_token_files(flags);
  const model::GptConfig config = tools::resolve(flags, files.vocabulary().vocab_size());
  if (resumed) {
    const engine::Checkpoint& checkpoint = *resumed->checkpoint;
    tools::require_same_vocabulary(checkpoint, files.vocabulary());
    require(model::config_from_json(checkpoint.config(), checkpoint.path()) == config, Exit::checkpoint,
            "{}: holds another model than these flags and this data describe; leave the model flags out to "
            "resume it",
            flags.out);
    if (nothing_to_do(resumed->saved.state, flags)) return 0;
  }
  tools::TrainRun run(flags, config, std::move(files), std::move(resumed));
  if (planning) return run.print_plan(), tools::flush_out(), 0;
  return run.run(interrupt);
}

}  // namespace

int main(int argc, char** argv) {
  return tools::run_tool("train_gpt", "Trains a GPT with sparse attention on a token file.", argc, argv,
                         [argc, argv](CLI::App& app) -> tools::Body {
                           auto flags = std::make_shared<TrainFlags>();
                           tools::declare(app, *flags);
                           return [flags, argc, argv] { return train(*flags, argc, argv); };
                         });
}
