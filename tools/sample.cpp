// sample: a checkpoint -> text (docs/reference.md).
#include <chrono>
#include <optional>
#include <random>

#include "data/interrupt.h"
#include "data/text_output.h"
#include "data/utf8.h"
#include "engine/checkpoint.h"
#include "tools/cli.h"
#include "tools/console.h"
#include "tools/interactive.h"
#include "tools/perplexity.h"
#include "tools/precision.h"
#include "tools/text_file.h"
#include "tools/text_generation.h"
#include "tools/texts_in_order.h"

namespace {

using engine::Exit;
using engine::require;

struct Flags {
  std::string checkpoint, prompt, prompt_file, scored_file, device = "auto", dtype = "auto";
  std::int64_t tokens = 256, samples = 1, seed = -1, threads = 0;
  bool ignore_end_of_text = false, interactive = false, no_stream = false, quiet = false;
  tools::TextRules rules;
  model::SamplerConfig sampler;
};

constexpr std::size_t kMostPrompt = 16 << 20;  // bytes
// Texts that are drawn side by side, at most, and the tokens that they may have together.
constexpr std::int64_t kSideBySide = 64, kTokensSideBySide = std::int64_t(1) << 18;
constexpr std::int64_t kMostChecked = 1024;  // tokens of --ppl that are predicted by the cache, too

std::string read_prompt(const Flags& f) {
  if (f.prompt_file.empty()) return data::repair_utf8(f.prompt);
  std::string text = tools::read_text(f.prompt_file, kMostPrompt, "too long for a prompt; give its end");
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

std::uint64_t choose_seed(std::int64_t wanted) {
  if (wanted >= 0) return std::uint64_t(wanted);
  std::random_device random;
  return std::uint64_t(random()) & 0x7fffffff;
}

struct Model {  // what a checkpoint holds, on a device
  Model(const Flags& f, const engine::Checkpoint& checkpoint, const model::GptConfig& config)
      : stream(engine::parse_device(f.device)),
        store(stream.device(), tools::compute_type(f.dtype, stream.device())),
        gpt(config, store) {
    store.seal(false);
    checkpoint.load(store, stream);
  }
  engine::Stream stream;
  engine::ParamStore store;
  model::Gpt gpt;
};

void score(const Flags& f, const tools::ScoredText& text, Model& m, const data::Interrupt& interrupt) {
  if (!f.quiet && !text.part.empty()) tools::note("sample: {}: {}\n", f.scored_file, text.part);
  const tools::Perplexity found =
      tools::measure(m.gpt, m.stream, text, kMostChecked, [&interrupt] { interrupt.check(); });
  tools::print("{}\n", tools::to_line(found, text.bytes));
}

// The texts, in groups that are drawn side by side.
void write_texts(const Flags& f, Model& m, const data::Tokenizer& tokenizer, tools::Prompt prompt,
                 std::uint64_t seed, std::int32_t banned, const data::Interrupt& interrupt) {
  const std::int64_t context = m.gpt.config().context, size = std::int64_t(prompt.tokens.size());
  const std::int64_t wanted = f.tokens >= 0 ? f.tokens : std::max<std::int64_t>(context - size, 0);
  const std::int64_t room = tools::text_room(m.gpt.config(), size, wanted);
  if (size + wanted > room)
    tools::note(
        "sample: {} tokens pass the trained length of {}: when it is full, the last {} go on, here and when "
        "it "
        "is full again\n",
        size + wanted, context, tools::kept_end(room));
  const auto poll = [&interrupt] { interrupt.check(); };
  tools::TextsInOrder texts(prompt.text, !f.no_stream,
                            [&poll](std::string_view text) { data::write_to_stdout(text, poll); });
  tools::TextRequest request{.prompt = std::move(prompt), .tokens = wanted, .rules = f.rules, .poll = poll};
  const std::int64_t most = std::clamp<std::int64_t>(kTokensSideBySide / (size + wanted), 1, kSideBySide);
  const auto start = std::chrono::steady_clock::now();
  std::int64_t drawn = 0;
  std::optional<model::Generator> generator;
  try {
    for (std::int64_t first = 0; first < f.samples; first += most) {
      const std::int64_t count = std::min(most, f.samples - first);
      if (!generator || count < most) generator.emplace(m.gpt, m.stream, count, room, f.sampler, banned);
      request.texts = std::size_t(count);
      request.seed = seed + std::uint64_t(first);
      texts.add(std::size_t(first), "", false);
      drawn += tools::generate_texts(*generator, tokenizer, request,
                                     [&](std::size_t i, std::string_view piece, bool last) {
                                       texts.add(std::size_t(first) + i, piece, last);
                                     });
    }
  } catch (const data::Interrupted&) {
    if (!f.no_stream && texts.inside_line()) tools::end_line();
    throw;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!f.quiet)
    tools::note("sample: {} tokens in {:.2f} s, {:.1f} tok/s\n", drawn, seconds, double(drawn) / seconds);
}

void check(const Flags& f) {
  require(!tools::is_bare_number(f.checkpoint), Exit::usage,
          "-c {}: expected a checkpoint made by ./train_gpt, got a number", f.checkpoint);
  tools::StopStrings{f.rules.stops};
  require(!f.interactive || f.samples == 1, Exit::usage,
          "-i and -N {} exclude each other: a conversation has one text", f.samples);
  require(!f.interactive || f.prompt_file != "-", Exit::usage,
          "-i and -f - exclude each other: the lines are read from standard input");
}

int run(const Flags& f) {
  check(f);
  tools::use_threads(f.threads);
  const engine::Checkpoint checkpoint(f.checkpoint);
  const auto tokenizer = data::deserialize_tokenizer(checkpoint.tokenizer(), f.checkpoint);
  const auto config = model::config_from_json(checkpoint.config(), f.checkpoint);
  require(tokenizer->size() == std::uint64_t(config.vocab), Exit::checkpoint,
          "{}: its tokenizer has {} entries, its model {}; the file is damaged", f.checkpoint,
          tokenizer->size(), config.vocab);
  require(tokenizer->end_of_text() < tokenizer->size(), Exit::checkpoint,
          "{}: its vocabulary has no [SEP], which ends every text; the file is damaged", f.checkpoint);
  const std::string text = read_prompt(f);
  tools::Prompt prompt;  // a conversation need not begin with one
  if (!f.interactive || !text.empty()) prompt = tools::make_prompt(*tokenizer, text, f.rules);
  tools::shorten(prompt, config, f.tokens, "sample");
  std::optional<tools::ScoredText> scored;
  if (!f.scored_file.empty()) scored = tools::open_scored(f.scored_file, *tokenizer, checkpoint);
  // Before the first thread starts, so that all hold the signals back; after what standard input is read for.
  const data::Interrupt interrupt;
  Model m(f, checkpoint, config);
  if (scored) return score(f, *scored, m, interrupt), 0;

  const std::uint64_t seed = choose_seed(f.seed);
  if (!f.quiet)
    tools::note("sample: seed {}; {}; {}\n", seed, engine::device_name(m.stream.device()),
                tools::describe_precision(f.dtype, m.stream.device()));
  const std::int32_t banned = f.ignore_end_of_text ? std::int32_t(tokenizer->end_of_text()) : -1;
  if (!f.interactive) {
    write_texts(f, m, *tokenizer, std::move(prompt), seed, banned, interrupt);
    return 0;
  }
  tools::converse({.gpt = m.gpt,
                   .stream = m.stream,
                   .tokenizer = *tokenizer,
                   .interrupt = interrupt,
                   .sampler = f.sampler,
                   .seed = seed,
                   .banned = banned,
                   .tokens = f.tokens,
                   .rules = f.rules,
                   .streamed = !f.no_stream,
                   .quiet = f.quiet},
                  prompt);
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
  app.add_option("--stop", f.rules.stops, "End a text before this, which is not shown; repeatable")
      ->type_name("TEXT")
      ->allow_extra_args(false)
      ->default_str("");
  app.add_flag("--ignore-eos", f.ignore_end_of_text, "Never end a text");
  tools::add_integer(app, "-N,--samples", f.samples, 1, 1 << 20, "Number of texts, separated by a line ---");
  app.add_flag("-i,--interactive", f.interactive, "Go on from each line of standard input");
  tools::refuse_empty(
      app.add_option("--ppl", f.scored_file, "Print how well this text or token file is predicted"))
      ->type_name("FILE");
  app.add_flag("--decode-urls", f.rules.decode_urls, "Show percent escapes as what they stand for");
  app.add_flag("--no-stream", f.no_stream, "Write each text when it is complete");
  app.add_option("--device", f.device, "auto, cpu, cuda or cuda:N");
  tools::add_choice(app, "--dtype", f.dtype, {"auto", "fp32", "bf16"},
                    "Precision; auto: bf16 on a card that is fast at it");
  tools::add_integer(app, "--threads", f.threads, 0, 4096, "CPU threads; 0: all that this process may use");
  app.add_flag("--quiet", f.quiet, "Neither seed nor timing on stderr");
  return [&app, &f] {
    if (!f.scored_file.empty())
      for (const char* other : {"--prompt", "--file", "--stop", "--samples", "--interactive"})
        require(app.count(other) == 0, Exit::usage,
                "--ppl and {} exclude each other: what is scored is read, not written", other);
    if (f.sampler.top_frac > 0) {  // the reference program's filter stands alone unless others are asked for
      if (app.count("--top-k") == 0) f.sampler.top_k = 0;
      if (app.count("--top-p") == 0) f.sampler.top_p = 1;
      if (app.count("--min-p") == 0) f.sampler.min_p = 0;
    }
    return run(f);
  };
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  return tools::run_tool("sample", "Generates text with a trained model.", argc, argv,
                         [&](CLI::App& app) { return set_up(app, flags); });
}
