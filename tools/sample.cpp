// sample: a checkpoint -> text (docs/reference.md).
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>

#include "data/interrupt.h"
#include "data/text_output.h"
#include "data/utf8.h"
#include "engine/checkpoint.h"
#include "tools/cli.h"
#include "tools/console.h"
#include "tools/text_generation.h"

namespace {

using engine::Exit;
using engine::fail;
using engine::require;

struct Flags {
  std::string checkpoint, prompt, prompt_file, device = "auto";
  std::int64_t tokens = 256, samples = 1, seed = -1, threads = 0;
  bool ignore_end_of_text = false, no_stream = false, quiet = false;
  model::SamplerConfig sampler;
};

constexpr std::size_t kMostPrompt = 16 << 20;  // bytes

std::string read_prompt(const Flags& f) {
  if (f.prompt_file.empty()) return data::repair_utf8(f.prompt);
  std::ifstream file;
  if (f.prompt_file != "-") {
    std::error_code absent;
    require(!std::filesystem::is_directory(f.prompt_file, absent), Exit::data,
            "{}: is a folder; give a text file, or - for standard input", f.prompt_file);
    file.open(f.prompt_file, std::ios::binary);
    require(file.is_open(), Exit::data, "{}: cannot be opened: {}; give a text file, or - for standard input",
            f.prompt_file, std::strerror(errno));
  }
  std::istream& in = f.prompt_file == "-" ? std::cin : file;
  std::string text(kMostPrompt + 1, '\0');
  in.read(text.data(), std::streamsize(text.size()));
  text.resize(std::size_t(in.gcount()));
  require(!in.bad(), Exit::data, "{}: cannot be read; give a text file, or - for standard input",
          f.prompt_file);
  require(text.size() <= kMostPrompt, Exit::data, "{}: over {} bytes, too long for a prompt; give its end",
          f.prompt_file, kMostPrompt);
  if (text.ends_with('\n')) text.pop_back();
  return data::repair_utf8(text);
}

std::uint64_t choose_seed(std::int64_t wanted) {
  if (wanted >= 0) return std::uint64_t(wanted);
  std::random_device random;
  return std::uint64_t(random()) & 0x7fffffff;
}

// A prompt longer than the model's context keeps its end, so that what is asked for last is seen.
std::vector<std::int32_t> shortened(std::vector<std::int32_t> prompt, std::int64_t context) {
  const auto size = std::int64_t(prompt.size());
  if (size <= context) return prompt;
  tools::note("sample: the prompt has {} tokens, the model was trained at {}: only its end is read\n", size,
              context);
  return {prompt.end() - context, prompt.end()};
}

// Ends the line of a text that a signal cut, unless that would wait for a reader.
void end_line() {
  pollfd ready{STDOUT_FILENO, POLLOUT, 0};
  if (::poll(&ready, 1, 0) == 1) data::write_to_stdout("\n", {});
}

int generate(const Flags& f) {
  require(!tools::is_bare_number(f.checkpoint), Exit::usage,
          "-c {}: expected a checkpoint made by ./train_gpt, got a number", f.checkpoint);
  tools::use_threads(f.threads);
  const engine::Checkpoint checkpoint(f.checkpoint);
  const auto tokenizer = data::deserialize_tokenizer(checkpoint.tokenizer(), f.checkpoint);
  const auto config = model::config_from_json(checkpoint.config(), f.checkpoint);
  require(tokenizer->size() == std::uint64_t(config.vocab), Exit::checkpoint,
          "{}: its tokenizer has {} entries, its model {}; the file is damaged", f.checkpoint,
          tokenizer->size(), config.vocab);
  const std::string prompt_text = read_prompt(f);
  const auto prompt = shortened(tools::prompt_tokens(*tokenizer, prompt_text), config.context);
  const data::Interrupt interrupt;  // before the first thread starts, so that all hold the signals back
  engine::Stream stream(engine::parse_device(f.device));
  engine::ParamStore store(stream.device(), engine::DType::f32);
  const model::Gpt gpt(config, store);
  store.seal(false);
  checkpoint.load(store, stream);

  const std::uint64_t seed = choose_seed(f.seed);
  const auto prompt_size = std::int64_t(prompt.size());
  const std::int64_t wanted =
      f.tokens >= 0 ? f.tokens : std::max<std::int64_t>(config.context - prompt_size, 0);
  if (!f.quiet) tools::note("sample: seed {}\n", seed);
  if (prompt_size + wanted > config.context)
    tools::note("sample: {} tokens pass the trained length of {}; what lies behind it may be poor\n",
                prompt_size + wanted, config.context);

  const auto poll = [&interrupt] { interrupt.check(); };
  const auto show = [&poll](std::string_view text) { data::write_to_stdout(text, poll); };
  const std::int32_t banned = f.ignore_end_of_text ? std::int32_t(tokenizer->end_of_text()) : -1;
  const auto start = std::chrono::steady_clock::now();
  std::int64_t drawn = 0;
  for (std::int64_t i = 0; i < f.samples; i++) {
    if (i > 0) show("---\n");
    model::Generator generator(gpt, stream, 1, prompt_size + wanted, f.sampler, seed + std::uint64_t(i),
                               banned);
    std::string whole = prompt_text;
    if (!f.no_stream) show(prompt_text);
    try {
      drawn += tools::generate_text(
          generator, *tokenizer, {.prompt = prompt, .tokens = wanted, .poll = poll},
          [&](std::string_view piece) { f.no_stream ? void(whole += piece) : show(piece); });
    } catch (const data::Interrupted&) {
      if (!f.no_stream) end_line();
      throw;
    }
    if (f.no_stream) show(whole);
    show("\n");
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!f.quiet)
    tools::note("sample: {} tokens in {:.2f} s, {:.1f} tok/s\n", drawn, seconds, double(drawn) / seconds);
  return 0;
}

tools::Body set_up(CLI::App& app, Flags& f) {
  auto& s = f.sampler;
  tools::refuse_empty(app.add_option("-c,--ckpt", f.checkpoint, "Checkpoint made by ./train_gpt"))
      ->required()
      ->type_name("FILE");
  auto* prompt = app.add_option("-p,--prompt", f.prompt, "Text to go on from")->type_name("TEXT");
  tools::refuse_empty(app.add_option("-f,--file", f.prompt_file, "File with that text, - for standard input"))
      ->type_name("FILE")
      ->excludes(prompt);
  tools::add_integer(app, "-n,--tokens", f.tokens, -1, std::int64_t(1) << 30,
                     "Most tokens to add; -1: up to the trained length");
  tools::add_real(app, "--temp", s.temperature, 0, 1e6, "Temperature; 0: always the likeliest token");
  tools::add_integer(app, "--top-k", s.top_k, 0, std::int64_t(1) << 31, "Keep the K likeliest; 0: all");
  tools::add_real(app, "--top-p", s.top_p, 0, 1, "Keep the likeliest that sum to P; 1: all");
  tools::add_real(app, "--min-p", s.min_p, 0, 1, "Keep those at least P times as likely as the best; 0: all");
  tools::add_real(app, "--top-frac", s.top_frac, 0, 1,
                  "Keep this share of the vocabulary; turns the other filters off");
  tools::add_real(app, "--repeat-penalty", s.repeat_penalty, 1e-3, 1e3,
                  "Make tokens that occurred less likely; 1: off");
  tools::add_integer(app, "--repeat-last-n", s.repeat_last, 0, std::int64_t(1) << 30,
                     "How far back the penalty looks");
  tools::add_integer(app, "--seed", f.seed, -1, std::int64_t(1) << 62, "-1: a random one, printed");
  app.add_flag("--ignore-eos", f.ignore_end_of_text, "Never end a text");
  tools::add_integer(app, "-N,--samples", f.samples, 1, 1 << 20, "Number of texts, separated by a line ---");
  app.add_flag("--no-stream", f.no_stream, "Write each text when it is complete");
  app.add_option("--device", f.device, "auto, cpu, cuda or cuda:N");
  tools::add_integer(app, "--threads", f.threads, 0, 4096, "CPU threads; 0: all that this process may use");
  app.add_flag("--quiet", f.quiet, "Neither seed nor timing on stderr");
  return [&app, &f] {
    if (f.sampler.top_frac > 0) {  // the reference program's filter stands alone unless others are asked for
      if (app.count("--top-k") == 0) f.sampler.top_k = 0;
      if (app.count("--top-p") == 0) f.sampler.top_p = 1;
      if (app.count("--min-p") == 0) f.sampler.min_p = 0;
    }
    return generate(f);
  };
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  return tools::run_tool("sample", "Generates text with a trained model.", argc, argv,
                         [&](CLI::App& app) { return set_up(app, flags); });
}
