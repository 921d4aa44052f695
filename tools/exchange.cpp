#include "tools/exchange.h"

#include <fmt/format.h>

#include <memory>

#include "data/input.h"
#include "data/interrupt.h"
#include "data/token_exchange.h"
#include "engine/container.h"
#include "tools/console.h"
#include "tools/format.h"

namespace tools {
namespace {

using engine::Exit;
using engine::require;

struct Flags {
  std::string format, file, vocabulary, output, part = "train";
  double validation = 0;
  bool cased = false;
};

data::TokenFormat format_of(const std::string& name) {
  if (name == "llmc") return data::TokenFormat::llmc;
  return name == "npy" ? data::TokenFormat::npy : data::TokenFormat::nanogpt;
}

std::string count_of(std::uint64_t count) { return with_commas(static_cast<std::int64_t>(count)); }

int import_file(const Flags& f) {
  data::check_output(f.output, {f.file, f.vocabulary});
  require(!f.cased || !engine::begins_as_container(f.vocabulary), Exit::usage,
          "--cased with --vocab {}: that file knows its rules; leave the flag out, or give a vocab.txt",
          f.vocabulary);
  const auto loaded = data::load_vocabulary(f.vocabulary, {.lower = !f.cased});
  const data::Tokenizer& vocabulary = loaded->whole();  // other programs know no live tokens
  data::ForeignTokens tokens(f.file, format_of(f.format), vocabulary.size());
  const data::Interrupt interrupt;
  const auto summary =
      data::import_tokens(tokens, vocabulary, f.output, f.validation,
                          {.t2s = "unknown",
                           .opencc_version = "",
                           .unicode_version = "",
                           .source = fmt::format("{} tokens, {} bytes", f.format, tokens.bytes()),
                           .counts = "",
                           .made_by = made_by()},
                          [&] { interrupt.check(); });
  note("{}: {} tokens, {} documents; training {} tokens, validation {} tokens\n", printable(f.output),
       count_of(summary.tokens), count_of(summary.documents), count_of(summary.validation_from),
       count_of(summary.tokens - summary.validation_from));
  if (summary.documents == 1)
    note(
        "inspect: warning: {} is one document: it has no end-of-text, id {}, before its last token; was it "
        "made with {}?\n",
        printable(f.file), vocabulary.end_of_text(), printable(f.vocabulary));
  return 0;
}

int export_file(const Flags& f) {
  data::check_output(f.output, {f.file});
  {
    const engine::ContainerReader container(f.file);
    const auto format = container.metadata().find("format");
    require(format == container.metadata().end() || !format->second.starts_with("nsa-checkpoint/"),
            Exit::usage, "{}: is a checkpoint; {} is written from a token file", f.file, f.format);
  }
  const data::TokenFile file(f.file);
  const bool all = f.part == "all", validation = f.part == "validation";
  const std::uint64_t from = validation ? file.validation_from() : 0;
  const std::uint64_t to = validation || all ? file.size() : file.validation_from();
  require(from < to, Exit::data, "{}: its {} part is empty; choose another with --part", f.file, f.part);
  const data::Interrupt interrupt;
  data::export_tokens(file, from, to, format_of(f.format), f.output, [&] { interrupt.check(); });
  note("{}: {} of {} tokens (--part {}), of a vocabulary of {}\n", printable(f.output), count_of(to - from),
       count_of(file.size()), f.part, count_of(file.tokenizer()->whole().size()));
  return 0;
}

void add_files(CLI::App& app, Flags& f, const std::vector<std::string>& formats, const char* about_file,
               const char* about_output) {
  add_choice(app, "FORMAT", f.format, formats, "the other program's format")->required()->default_str("");
  refuse_empty(app.add_option("FILE", f.file, about_file))->required()->default_str("")->type_name("");
  refuse_empty(app.add_option("-o,--output", f.output, about_output))->required()->type_name("FILE");
}

}  // namespace

Body add_import(CLI::App& app) {
  const auto f = std::make_shared<Flags>();
  add_files(app, *f, {"llmc", "nanogpt"}, "llm.c's or nanoGPT's file", "the token file to write");
  refuse_empty(
      app.add_option(
          "--vocab", f->vocabulary,
          "the vocabulary of the ids: a tokenizer file, token file, checkpoint, vocab.txt or tokenizer.json"))
      ->required()
      ->type_name("FILE");
  add_real(app, "--val", f->validation, 0, 0.999999, "share of the validation part, which is the end");
  app.add_flag("--cased", f->cased, "vocab.txt: keep capitals and accents");
  return [f] { return import_file(*f); };
}

Body add_export(CLI::App& app) {
  const auto f = std::make_shared<Flags>();
  add_files(app, *f, {"llmc", "nanogpt", "npy"}, "a token file", "the file to write");
  add_choice(app, "--part", f->part, {"train", "validation", "all"}, "which tokens of the file");
  return [f] { return export_file(*f); };
}

}  // namespace tools
