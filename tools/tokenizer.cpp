// tokenizer: makes vocabularies, and shows what they do to text (docs/reference.md, "tokenizer").
#include <charconv>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/prepare.h"
#include "data/tokenizer.h"
#include "data/tokenizer_json.h"
#include "data/utf8.h"
#include "data/wordpiece.h"
#include "engine/durable_file.h"
#include "tools/cli.h"
#include "tools/console.h"
#include "tools/format.h"

namespace {

using engine::Exit;
using engine::fail;
using engine::require;

void warn(const std::string& line) { tools::note("tokenizer: warning: {}\n", tools::printable(line)); }

struct Train {
  data::PrepareOptions options;
  std::string output, kind = "bbpe";
  std::int64_t vocab_size = 16384, threads = tools::default_threads();
  bool cased = false;
};

void set_up_train(CLI::App& app, Train& f) {
  data::PrepareOptions& o = f.options;
  tools::refuse_empty(app.add_option("INPUT", o.inputs, "files, folders, - for standard input"))
      ->required()
      ->default_str("")
      ->type_name("");
  tools::refuse_empty(app.add_option("-o,--output", f.output, "the tokenizer file to write"))
      ->type_name("FILE")
      ->required();
  tools::add_choice(app, "--kind", f.kind, {"bbpe", "char"}, "what a token is");
  tools::add_size(app, "--vocab-size", f.vocab_size, 1, 1 << 24, "tokens, at most");
  tools::add_real(app, "--coverage", o.training.coverage, 0, 1,
                  "char: share of the text's characters to hold");
  app.add_flag("--cased", f.cased, "char: keep capitals and accents");
  tools::refuse_empty(app.add_option("--t2s", o.t2s, "OpenCC configuration for the text, or off"))
      ->capture_default_str()
      ->type_name("t2s|CONFIG|off");
  app.add_option("--text-field", o.text_field, "JSON: the field with the text")->type_name("NAME");
  app.add_option("--doc-sep", o.separator, "plain text: line between documents")->type_name("TEXT");
  tools::add_integer(app, "--threads", f.threads, 1, 1024, "threads that convert and count");
}

int train(const CLI::App& app, Train& f) {
  const bool bbpe = f.kind == "bbpe";
  require(!bbpe || app.count("--coverage") + app.count("--cased") == 0, Exit::usage,
          "--coverage and --cased are for --kind char: byte-level BPE holds every byte; leave them out");
  data::PrepareOptions& o = f.options;
  o.output = f.output;
  o.text = false;
  o.rules.lower = !f.cased;
  o.threads = static_cast<int>(f.threads);
  o.training.kind = bbpe ? data::VocabularyKind::bbpe : data::VocabularyKind::character;
  o.training.size = static_cast<std::uint32_t>(f.vocab_size);
  data::PrepareReport report;
  try {
    const data::Interrupt interrupt;
    const auto vocabulary = data::train_vocabulary(o, report, &interrupt);
    for (const std::string& line : report.warnings) warn(line);
    data::save_tokenizer(*vocabulary, f.output);
  } catch (const data::Interrupted& stop) {
    tools::complain("tokenizer", "stopped by a signal, nothing was written");
    return 128 + stop.signal;
  }
  tools::note("{}: {}; {} documents, {} bytes of text, {} ill-formed places replaced\n",
              tools::printable(f.output), report.vocabulary.text(), tools::with_commas(report.documents),
              tools::with_commas(report.text_bytes), tools::with_commas(report.replaced));
  const data::CharVocabReport& characters = report.vocabulary.character;
  if (!bbpe && characters.coverage() < o.training.coverage)
    warn(fmt::format(
        "--vocab-size {} covers less than --coverage {:g}; {:.4f} % of the characters become [UNK]",
        f.vocab_size, o.training.coverage, 100 * (1 - characters.coverage())));
  return 0;
}

struct Source {  // of a vocabulary, for encode and decode
  std::string file, vocab, compat;
  bool cased = false;
};

void add_source(CLI::App& app, Source& source) {
  tools::refuse_empty(
      app.add_option("-t,--tokenizer", source.file, "a tokenizer file, or what --vocab takes"))
      ->type_name("FILE");
  tools::refuse_empty(app.add_option("--vocab", source.vocab,
                                     "a vocab.txt (WordPiece), or a tokenizer.json of byte-level BPE"))
      ->type_name("FILE");
  app.add_flag("--cased", source.cased, "vocab.txt: keep capitals and accents");
}

std::unique_ptr<data::Tokenizer> load(const Source& source) {
  require(source.file.empty() != source.vocab.empty(), Exit::usage,
          "expected either -t FILE (a tokenizer file) or --vocab FILE (a vocab.txt or tokenizer.json)");
  const data::BertRules rules{.lower = !source.cased, .hugging_face = source.compat == "hf"};
  if (source.vocab.empty()) {
    auto tokenizer = data::load_tokenizer(source.file, rules);
    const auto* wordpiece = dynamic_cast<const data::WordPiece*>(&tokenizer->whole());
    require(
        rules == data::BertRules{} || (wordpiece != nullptr && wordpiece->rules() == rules), Exit::usage,
        "--cased or --compat with -t {}: a tokenizer file knows its rules, and they are others; leave the "
        "flags out, or give a vocab.txt",
        source.file);
    return tokenizer;
  }
  auto vocabulary = data::read_vocabulary(source.vocab, rules);
  const auto* wordpiece = dynamic_cast<const data::WordPiece*>(vocabulary.get());
  if (source.cased && wordpiece != nullptr && !wordpiece->has_capitals())
    warn(fmt::format("--cased, but {} has no capital letters: each becomes [UNK]", source.vocab));
  return vocabulary;
}

void write_line(std::string line) { tools::write_out(line += '\n'); }

void check_input_end() {
  require(!std::cin.bad(), Exit::data, "standard input: cannot be read; expected lines of text");
}

int encode(const Source& source, bool json) {
  const auto tokenizer = load(source);
  const data::Tokenizer& vocabulary = tokenizer->whole();
  std::string line;
  std::vector<std::uint32_t> ids;
  for (std::uint64_t number = 1; std::getline(std::cin, line); ++number) {
    if (json) {
      const auto text = nlohmann::json::parse(line, nullptr, false);
      require(text.is_string(), Exit::data, "standard input: line {} is not a JSON string", number);
      line = text.get<std::string>();
    }
    ids.clear();
    // Byte-level BPE takes any bytes.
    vocabulary.encode(vocabulary.words() == data::WordRule::gpt2 ? line : data::repair_utf8(line), ids);
    write_line(json ? fmt::format("[{}]", fmt::join(ids, ",")) : fmt::format("{}", fmt::join(ids, " ")));
  }
  check_input_end();
  return 0;
}

std::vector<std::uint32_t> parse_ids(std::string_view line, std::uint64_t number, std::uint32_t size) {
  std::vector<std::uint32_t> ids;
  constexpr std::string_view kBlanks = " \t\r";
  for (std::size_t at = line.find_first_not_of(kBlanks); at < line.size();
       at = line.find_first_not_of(kBlanks, at)) {
    const std::string_view word = line.substr(at, line.find_first_of(kBlanks, at) - at);
    std::uint32_t id = 0;
    const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    require(error == std::errc{} && stop == word.data() + word.size() && id < size, Exit::data,
            "standard input: line {}: '{}' is no token id; expected whole numbers from 0 to {}", number,
            data::repair_utf8(word.substr(0, 40)), size - 1);
    ids.push_back(id);
    at += word.size();
  }
  return ids;
}

int decode(const Source& source) {
  const auto tokenizer = load(source);
  const data::Tokenizer& vocabulary = tokenizer->whole();
  std::string line;
  for (std::uint64_t number = 1; std::getline(std::cin, line); ++number) {
    write_line(vocabulary.decode(parse_ids(line, number, vocabulary.size())));
  }
  check_input_end();
  return 0;
}

int info(const std::string& file) {
  const auto tokenizer = data::load_tokenizer(file);
  const data::Tokenizer& vocabulary = tokenizer->whole();
  const std::uint32_t end = vocabulary.end_of_text();
  write_line(fmt::format("kind {}", vocabulary.kind()));
  if (const auto* wordpiece = dynamic_cast<const data::WordPiece*>(&vocabulary)) {
    write_line(fmt::format("lower {}", wordpiece->rules().lower ? "yes" : "no"));
    if (wordpiece->rules().hugging_face) write_line("compat hf");
  }
  write_line(fmt::format("vocab_size {}", vocabulary.size()));
  if (&vocabulary != tokenizer.get()) write_line(fmt::format("live {}", tokenizer->size()));
  write_line(end == data::kNoToken ? "end_of_text none"
                                   : fmt::format("end_of_text {} {}", end, vocabulary.piece(end)));
  write_line(fmt::format("sha256 {}", vocabulary.vocab_sha256()));
  return 0;
}

std::string vocab_txt(const data::Tokenizer& tokenizer) {
  std::string text;
  for (std::uint32_t id = 0; id < tokenizer.size(); ++id) (text += tokenizer.piece(id)) += '\n';
  return text;
}

int export_vocabulary(const std::string& file, const std::string& output) {
  const auto tokenizer = data::load_vocabulary(file);
  const data::Tokenizer& vocabulary = tokenizer->whole();
  data::check_output(output, {file});
  const bool json = output.ends_with(".json");
  const std::string text = json ? data::tokenizer_json(vocabulary) : vocab_txt(vocabulary);
  engine::DurableFile out(output);
  out.write(std::as_bytes(std::span(text)));
  out.commit();
  const auto* wordpiece = dynamic_cast<const data::WordPiece*>(&vocabulary);
  if (!json && wordpiece == nullptr)
    warn(
        "a vocab.txt lists the tokens of byte-level BPE but not what they are; programs need a "
        "tokenizer.json");
  if (!json && wordpiece != nullptr && !wordpiece->rules().lower)
    warn("a vocab.txt does not say that it is cased; read it with --cased");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Train training;
  Source encoding, decoding;
  bool json = false;
  std::string info_file, export_file, export_output;
  return tools::run_tool(
      "tokenizer", "Makes vocabularies, and shows what they do to text.", argc, argv,
      [&](CLI::App& app) -> tools::Body {
        app.require_subcommand(0, 1)->fallthrough();
        app.add_flag("--quiet")->description("no progress, as in every program; there is none here");
        CLI::App* train_app = app.add_subcommand("train", "makes a vocabulary from text");
        set_up_train(*train_app, training);

        CLI::App* encode_app = app.add_subcommand("encode", "turns lines of standard input into ids");
        add_source(*encode_app, encoding);
        tools::add_choice(*encode_app, "--compat", encoding.compat, {"hf"},
                          "vocab.txt: the rules of Hugging Face's tokenizers");
        encode_app->add_flag("--json", json, "a JSON string a line in, a JSON array of ids a line out");

        CLI::App* decode_app = app.add_subcommand("decode", "turns lines of ids into text");
        add_source(*decode_app, decoding);

        CLI::App* info_app = app.add_subcommand("info", "shows kind, size and SHA-256 of a vocabulary");
        tools::refuse_empty(
            info_app->add_option("FILE", info_file, "a tokenizer file, vocab.txt or tokenizer.json"))
            ->required()
            ->type_name("");

        CLI::App* export_app = app.add_subcommand("export", "writes a tokenizer.json or a vocab.txt");
        tools::refuse_empty(
            export_app->add_option("FILE", export_file,
                                   "a tokenizer file, token file, checkpoint, vocab.txt or tokenizer.json"))
            ->required()
            ->type_name("");
        tools::refuse_empty(
            export_app->add_option("-o,--output", export_output,
                                   "a tokenizer.json (a name in .json) or a vocab.txt to write"))
            ->type_name("FILE")
            ->required();

        return [&, train_app, encode_app, decode_app, info_app]() -> int {
          require(!app.get_subcommands().empty(), Exit::usage,
                  "no command given, expected train, encode, decode, export or info; see --help");
          std::ios::sync_with_stdio(false);
          int code = 0;
          if (train_app->parsed()) code = train(*train_app, training);
          else if (encode_app->parsed()) code = encode(encoding, json);
          else if (decode_app->parsed()) code = decode(decoding);
          else if (info_app->parsed()) code = info(info_file);
          else code = export_vocabulary(export_file, export_output);
          tools::flush_out();
          return code;
        };
      });
}
