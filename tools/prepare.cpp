// prepare: a dump or any text -> a token file, or cleaned text (docs/reference.md).
#include "data/prepare.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>

#include "data/text_output.h"
#include "tools/cli.h"
#include "tools/console.h"
#include "tools/format.h"

namespace {

using engine::Exit;
using engine::require;
using tools::note;
using tools::printable;
using tools::with_commas;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kMost = std::int64_t{1} << 53;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string joined(const auto& counts) {
  std::string text;
  for (const auto& [what, count] : counts)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", what, with_commas(count));
  return text;
}

void print_report(const data::PrepareOptions& options, data::PrepareReport report, double seconds) {
  for (const std::string& warning : report.warnings) note("prepare: warning: {}\n", printable(warning));
  note("input      {} bytes in {:.1f} s, {:.1f} MB/s, {} threads\n", with_commas(report.input_bytes), seconds,
       static_cast<double>(report.input_bytes) / 1e6 / std::max(seconds, 1e-9), options.threads);
  note("documents  {}{}{}{}\n", with_commas(report.documents),
       report.skipped.empty() ? "" : "; skipped: ", joined(report.skipped),
       report.cut_documents == 0 ? "" : fmt::format("; over 32 MiB and cut: {} times", report.cut_documents));
  note("text       {} bytes, t2s {}, {} ill-formed places replaced\n", with_commas(report.text_bytes),
       options.t2s, with_commas(report.replaced));
  if (options.text) return;
  const data::EncodeCounts& counts = report.counts;
  note("vocabulary {}\n", report.tokenizer);
  note("tokens     {}, [UNK] {:.4f} %, {} characters dropped, {} special words\n",
       with_commas(report.summary.tokens),
       100 * static_cast<double>(counts.unknown) /
           static_cast<double>(std::max<std::uint64_t>(1, counts.tokens)),
       with_commas(counts.dropped_characters), with_commas(counts.special_words));
  for (auto& [word, count] : report.commonest_unknown) word = printable(word);
  if (!report.commonest_unknown.empty()) note("unknown    {}\n", joined(report.commonest_unknown));
  const data::TokenFileSummary& summary = report.summary;
  note("split      training {} tokens, validation {} tokens{}\n", with_commas(summary.validation_from),
       with_commas(summary.tokens - summary.validation_from),
       summary.tail_instead_of_hash ? "; by position, since there are fewer than two documents" : "");
  note("written    {}\n", printable(options.output.string()));
}

class Progress {
 public:
  explicit Progress(bool wanted) : wanted_(wanted && ::isatty(STDERR_FILENO) == 1) {}
  ~Progress() { clear(); }

  void clear() {
    if (shown_) note("\r\033[K");
    shown_ = false;
  }

  void operator()(const data::PrepareReport& report) {
    if (!wanted_ || seconds_since(last_) < 0.25) return;
    last_ = Clock::now();
    shown_ = true;
    note("\r\033[K{:.1f} MB, {} documents, {} tokens, {:.1f} MB/s",
         static_cast<double>(report.input_bytes) / 1e6, with_commas(report.documents),
         with_commas(report.counts.tokens),
         static_cast<double>(report.input_bytes) / 1e6 / std::max(seconds_since(start_), 1e-9));
    std::fflush(stderr);
  }

 private:
  bool wanted_, shown_ = false;
  Clock::time_point start_ = Clock::now(), last_ = start_;
};

int run(const data::PrepareOptions& options, bool quiet) {
  const auto start = Clock::now();
  try {
    const data::Interrupt interrupt;
    Progress progress(!quiet);
    const auto report =
        data::prepare(options, &interrupt, [&](const data::PrepareReport& r) { progress(r); });
    progress.clear();
    print_report(options, report, seconds_since(start));
    return 0;
  } catch (const data::Interrupted& stop) {
    tools::complain("prepare", "stopped by a signal, nothing was written");
    return 128 + stop.signal;
  }
}

struct Flags {  // what needs a second look once all are known
  data::PrepareOptions options;
  std::string output, kind = "bbpe", rule = "hash", compat;
  std::int64_t vocab_size = 16384, seed = 1, limit = kMost, threads = tools::default_threads();
  bool cased = false, quiet = false;
};

void refuse_together(const CLI::App& app, const std::vector<std::string>& flags, const std::string& with,
                     const std::string& why) {
  for (const std::string& flag : flags)
    require(app.count(flag) == 0 || app.count(with) == 0, Exit::usage, "{} with {}: {}; leave one out", flag,
            with, why);
}

tools::Body set_up(CLI::App& app, Flags& f) {
  data::PrepareOptions& o = f.options;
  tools::refuse_empty(app.add_option("INPUT", o.inputs, "files, folders, - for standard input"))
      ->required()
      ->default_str("")
      ->type_name("");
  tools::refuse_empty(
      app.add_option("-o,--output", f.output,
                     "the token file to write; with --text a text file, - for standard output"))
      ->required()
      ->type_name("FILE");
  tools::refuse_empty(
      app.add_option("--vocab", o.vocab,
                     "a WordPiece vocabulary, one token a line, or a tokenizer.json of byte-level BPE"))
      ->type_name("FILE");
  tools::refuse_empty(app.add_option("--tokenizer", o.tokenizer,
                                     "a tokenizer file; with neither, a vocabulary is trained on the input"))
      ->type_name("FILE");
  tools::add_choice(app, "--kind", f.kind, {"bbpe", "char"}, "what a token of the trained vocabulary is");
  tools::add_size(app, "--vocab-size", f.vocab_size, 1, std::int64_t{1} << 24,
                  "tokens of the trained vocabulary, at most");
  tools::add_real(app, "--coverage", o.training.coverage, 0, 1,
                  "char: share of the text's characters that the trained vocabulary holds");
  tools::refuse_empty(app.add_option("--t2s", o.t2s, "OpenCC configuration for the text, or off"))
      ->capture_default_str()
      ->type_name("t2s|CONFIG|off");
  tools::add_real(app, "--val", o.split.share, 0, 0.999999, "share of the validation part, 0 for none");
  tools::add_choice(app, "--split", f.rule, {"hash", "tail"},
                    "validation: documents by a hash of their titles, or the end");
  tools::add_integer(app, "--seed", f.seed, 0, kMost, "seed of --split hash");
  app.add_flag("--cased", f.cased, "WordPiece: keep capitals and accents");
  tools::add_choice(app, "--compat", f.compat, {"hf"}, "WordPiece: the rules of Hugging Face's tokenizers");
  app.add_flag("--live-vocab", o.live_vocab, "WordPiece: number only the tokens that can occur");
  app.add_option("--text-field", o.text_field, "JSON: the field with the text")->type_name("NAME");
  app.add_option("--doc-sep", o.separator, "plain text: the line between documents, instead of a blank one")
      ->type_name("TEXT");
  tools::add_size(app, "--limit-bytes", f.limit, 1, kMost,
                  "read so much unpacked input, up to a whole document")
      ->default_str("");
  tools::add_integer(app, "--threads", f.threads, 1, 1024, "threads that convert and tokenize");
  app.add_flag("--text", o.text, "write cleaned, converted text instead of tokens");
  app.add_flag("--raw", o.raw, "take the input as one document, tags and all");
  app.add_flag("--quiet", f.quiet, "no progress");

  return [&app, &f] {
    refuse_together(app, {"--tokenizer"}, "--vocab", "one vocabulary is enough");
    for (const char* vocabulary : {"--vocab", "--tokenizer"})
      refuse_together(app, {"--kind", "--vocab-size", "--coverage"}, vocabulary, "nothing is trained");
    refuse_together(app, {"--cased", "--compat"}, "--tokenizer", "the tokenizer file knows its rules");
    refuse_together(app,
                    {"--vocab", "--tokenizer", "--kind", "--vocab-size", "--coverage", "--cased", "--compat",
                     "--live-vocab", "--val", "--split", "--seed"},
                    "--text", "text is written, not tokens");
    refuse_together(app, {"--text-field", "--doc-sep"}, "--raw", "a raw stream has no documents");
    const bool trains = f.options.vocab.empty() && f.options.tokenizer.empty();
    for (const char* flag : {"--coverage", "--cased", "--compat", "--live-vocab"})
      require(!trains || f.kind == "char" || app.count(flag) == 0, Exit::usage,
              "{}: not for the byte-level BPE that is trained, which holds every byte; leave it out, or say "
              "--kind char",
              flag);
    f.options.training.kind = f.kind == "char" ? data::VocabularyKind::character : data::VocabularyKind::bbpe;
    f.options.output = f.output;
    f.options.split.rule = f.rule == "tail" ? data::Split::Rule::tail : data::Split::Rule::hash;
    f.options.training.size = static_cast<std::uint32_t>(f.vocab_size);
    f.options.seed = static_cast<std::uint64_t>(f.seed);
    f.options.rules = {.lower = !f.cased, .hugging_face = f.compat == "hf"};
    f.options.threads = static_cast<int>(f.threads);
    if (app.count("--limit-bytes") > 0) f.options.limit_bytes = static_cast<std::uint64_t>(f.limit);
    f.options.made_by = tools::made_by();
    return run(f.options, f.quiet);
  };
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  return tools::run_tool("prepare", "Turns a dump or any text into a token file for train_gpt.", argc, argv,
                         [&](CLI::App& app) { return set_up(app, flags); });
}
