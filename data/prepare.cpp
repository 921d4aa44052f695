#include "data/prepare.h"

#include <malloc.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <unordered_map>

#include "data/block_converter.h"
#include "data/block_queue.h"
#include "data/input.h"
#include "data/live_vocabulary.h"
#include "data/part_stream.h"
#include "data/seen_documents.h"
#include "data/t2s.h"
#include "data/text_output.h"
#include "data/unicode_tables.h"
#include "data/utf8.h"
#include "data/wordpiece.h"
#include "engine/error.h"

namespace data {
namespace {

namespace fs = std::filesystem;
using engine::Exit;
using engine::fail;
using engine::require;

constexpr int kMostWorkers = 16;               // unpacking is slower than so many
constexpr std::size_t kMostUnknown = 1 << 16;  // different words that are counted

std::string_view name_of(InputFormat format) {
  switch (format) {
    case InputFormat::plain_text: return "plain text";
    case InputFormat::abstract_xml: return "abstract dump";
    case InputFormat::pages_xml: return "pages-articles dump";
    case InputFormat::wikiextractor: return "wikiextractor";
    case InputFormat::json: return "JSON";
  }
  throw std::logic_error("prepare: an input without a format");
}

std::string listed(const std::map<std::string, std::uint64_t>& counts) {
  std::string text;
  for (const auto& [what, count] : counts)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, what);
  return text;
}

class Preparation {
 public:
  Preparation(const PrepareOptions& options, const Interrupt* interrupt,
              const std::function<void(const PrepareReport&)>& progress)
      : options_(options),
        interrupt_(interrupt),
        progress_(progress),
        files_(expand_inputs(options.inputs)),
        // The thread that unpacks is as busy as a worker.
        workers_(std::clamp(options.threads - std::ranges::any_of(files_, is_gzip_file), 1, kMostWorkers)) {
    check_output();
    if (options_.t2s != "off") converter_.emplace(options_.t2s);
  }

  PrepareReport run() {
    if (options_.text) write_text();
    else write_tokens();
    return std::move(report_);
  }

  std::unique_ptr<Tokenizer> train(PrepareReport& report) {
    auto tokenizer = train_on_inputs();
    report = std::move(report_);
    return tokenizer;
  }

 private:
  void poll() const {
    if (interrupt_ != nullptr) interrupt_->check();
  }

  void check_output() const {
    if (options_.text && options_.output == "-") return;
    std::vector<std::string> inputs = files_;
    for (const std::string& vocabulary : {options_.vocab, options_.tokenizer})
      if (!vocabulary.empty()) inputs.push_back(vocabulary);
    data::check_output(options_.output, inputs);
  }

  const Converter* converter() const { return converter_ ? &*converter_ : nullptr; }

  // Reads all inputs: `work` runs in `workers_` threads on blocks whose text is converted, `consume` for one
  // block after the other, in order. Parts of documents are cut by the rule `words`.
  void run_blocks(WordRule words, const std::function<void(TextBlock&, int)>& work,
                  const std::function<void(TextBlock&)>& consume) {
    const BlockConverter converting(converter(), variant_of(options_.t2s));
    BlockQueue<TextBlock> queue(static_cast<std::size_t>(workers_) + 8);
    PartStream parts({.raw = options_.raw,
                      .seed = options_.seed,
                      .words = words,
                      .converter = converter(),
                      .part_bytes = options_.part_bytes,
                      .block_bytes = options_.block_bytes},
                     [&](TextBlock& block) { queue.push(std::exchange(block, queue.spare())); });
    std::uint64_t input_bytes = 0;
    queue.run(
        workers_, [&] { input_bytes = read_inputs(queue, parts); },
        [&](TextBlock& block, int worker) {
          converting.convert(block);
          work(block, worker);
        },
        [&](TextBlock& block) {
          poll();
          consume(block);
        });
    report_.input_bytes = input_bytes;
    for (const auto& [reason, count] : parts.skipped()) report_.skipped[reason] += count;
    report_.warnings.insert(report_.warnings.end(), parts.warnings().begin(), parts.warnings().end());
    report_.cut_documents = parts.cut_documents();
  }

  // Returns the unpacked bytes read.
  std::uint64_t read_inputs(BlockQueue<TextBlock>& queue, PartStream& parts) {
    const InputOptions input_options{.window = options_.window_bytes,
                                     .threads = std::min(options_.threads, kMostWorkers),
                                     .raw = options_.raw,
                                     .copy_of_standard_input = spool_ && !spooled_ ? &*spool_ : nullptr,
                                     .standard_input = spooled_ ? &*spool_ : nullptr,
                                     .poll = [&] {
                                       poll();
                                       if (queue.stopped()) throw BlockQueue<TextBlock>::Stopped();
                                     }};
    std::uint64_t bytes = 0;
    bool limited = false;
    sources_.clear();
    if (options_.raw) parts.begin();
    for (const std::string& file : files_) {
      limited = bytes == options_.limit_bytes;
      if (limited) break;
      Input input(file, input_options, options_.limit_bytes - bytes,
                  [&](std::string line) { parts.warn(std::move(line)); });
      if (options_.raw) read_raw(input, bytes, parts);
      else read_documents(input, {options_.text_field, options_.separator, variant_of(options_.t2s)}, parts);
      bytes += input.bytes_read();
      Source& source = sources_[options_.raw ? "raw" : name_of(input.format())];
      ++source.inputs;
      source.bytes += input.bytes_read();
      parts.set_input_bytes(bytes);
      limited = input.limited();
    }
    parts.finish(limited);
    return bytes;
  }

  static void read_raw(Input& input, std::uint64_t bytes_before, PartStream& parts) {
    do {
      parts.set_input_bytes(bytes_before + input.bytes_read());
      parts.text(input.window());
      input.consume(input.window().size());
    } while (input.fill());
  }

  void write_text() {
    TextOutput out(options_.output, [this] { poll(); });
    tell_duplicates();
    run_blocks(
        WordRule::bert, [](TextBlock&, int) {},
        [&](TextBlock& block) {
          for_each_part(block, [&](const Part& part, std::string_view text, std::span<const std::uint32_t>) {
            if (options_.raw) return out.raw(text);
            out.add(text);
            if (part.then == PartEnd::whole) out.end_document();
            if (part.then == PartEnd::abandoned) out.abandon_document();
          });
        });
    check_content();
    out.finish();
  }

  void write_tokens() {
    std::unique_ptr<Tokenizer> tokenizer = make_tokenizer();
    if (options_.live_vocab) {
      tokenizer =
          keep_live(std::move(tokenizer), options_.vocab.empty() ? options_.tokenizer : options_.vocab);
      report_.tokenizer += fmt::format(", {} of them live", tokenizer->size());
    }
    TokenFileWriter out(options_.output, *tokenizer, options_.raw, options_.split, [this] { poll(); });
    tell_duplicates();
    run_blocks(
        tokenizer->words(), [&](TextBlock& block, int) { encode(*tokenizer, options_.seed, block); },
        [&](TextBlock& block) {
          for_each_part(block,
                        [&](const Part& part, std::string_view text, std::span<const std::uint32_t> ids) {
                          out.add(ids, text.size());
                          if (part.then == PartEnd::whole) out.end_document(part.hash);
                          if (part.then == PartEnd::abandoned) out.abandon_document();
                        });
        });
    check_content();
    name_commonest_unknown();
    report_.summary = out.finish({.t2s = options_.t2s,
                                  .opencc_version = converter_ ? converter_->opencc_version() : "",
                                  .unicode_version = std::string(kUnicodeVersion),
                                  .source = source(),
                                  .counts = counts_json(),
                                  .made_by = options_.made_by});
  }

  static void encode(const Tokenizer& tokenizer, std::uint64_t seed, TextBlock& block) {
    std::size_t begin = 0, text_begin = 0;
    for (Part& part : block.parts) {
      tokenizer.encode(std::string_view(block.converted).substr(begin, part.converted_end - begin), block.ids,
                       &part.counts, &block.unknown_words);
      begin = part.converted_end;
      part.ids_end = block.ids.size();
      if (part.hash_of_text) {
        SplitHash hash(seed);
        hash.update(std::string_view(block.text).substr(text_begin, part.text_end - text_begin));
        part.hash = hash.value();
      }
      text_begin = part.text_end;
    }
  }

  void tell_duplicates() {  // from now on; a raw stream has no documents to compare
    if (!options_.raw) seen_.emplace();
  }

  // Abandons a document whose text came before.
  void compare(Part& part, std::string_view text) {
    seen_->add(text);
    if (part.then == PartEnd::abandoned) seen_->abandon_document();
    if (part.then != PartEnd::whole || !seen_->end_document()) return;
    ++report_.skipped["duplicate"];
    if (!options_.keep_duplicates) part.then = PartEnd::abandoned;
  }

  template <class Use> void for_each_part(TextBlock& block, const Use& use) {
    std::size_t begin = 0, id = 0;
    for (Part& part : block.parts) {
      const auto text = std::string_view(block.converted).substr(begin, part.converted_end - begin);
      if (seen_) compare(part, text);
      use(part, text,
          block.ids.empty() ? std::span<const std::uint32_t>()
                            : std::span(block.ids).subspan(id, part.ids_end - id));
      begin = part.converted_end;
      id = part.ids_end;
      count(part, text.size());
    }
    count(block);
    if (progress_) progress_(report_);
  }

  void count(const Part& part, std::size_t text_bytes) {  // of documents that stay
    present_.text_bytes += text_bytes;
    present_.counts += part.counts;
    if (part.then == PartEnd::open && !options_.raw) return;
    if (part.then != PartEnd::abandoned) {
      report_.documents += part.then == PartEnd::whole;
      report_.text_bytes += present_.text_bytes;
      report_.counts += present_.counts;
    }
    present_ = {};
  }

  void count(const TextBlock& block) {
    report_.input_bytes = block.input_bytes;
    report_.replaced += block.replaced;
    if (block.empty_pages > 0) report_.skipped["empty"] += block.empty_pages;
    for (const std::string& word : block.unknown_words) {
      const auto known = unknown_.find(word);
      if (known != unknown_.end()) ++known->second;
      else if (unknown_.size() < kMostUnknown) unknown_.emplace(word, 1);
    }
  }

  void check_content() {
    if (options_.raw) report_.documents = report_.text_bytes > 0;
    require(report_.documents > 0, Exit::data, "{}: no documents{}{}; give an input that holds text{}",
            input_names(), report_.skipped.empty() ? "" : ", skipped: ", listed(report_.skipped),
            report_.skipped.contains("no text field") ? ", or name its field by --text-field" : "");
    constexpr std::uint64_t kSome = 1000;
    require(report_.replaced < kSome || report_.replaced * 10 < report_.input_bytes, Exit::data,
            "{}: {} ill-formed places in {} bytes, expected UTF-8; convert it by iconv first", input_names(),
            report_.replaced, report_.input_bytes);
  }

  std::unique_ptr<Tokenizer> make_tokenizer() {
    if (!options_.vocab.empty()) {
      auto tokenizer = read_vocabulary(options_.vocab, options_.rules);
      const auto* wordpiece = dynamic_cast<const WordPiece*>(tokenizer.get());
      report_.tokenizer = fmt::format("{} ({} tokens)", options_.vocab, tokenizer->size());
      if (!options_.rules.lower && wordpiece != nullptr && !wordpiece->has_capitals())
        report_.warnings.push_back(options_.vocab + ": has no capital letters, so --cased makes them [UNK]");
      return tokenizer;
    }
    if (!options_.tokenizer.empty()) {
      auto tokenizer = load_tokenizer(options_.tokenizer);
      report_.tokenizer = fmt::format("{} ({} tokens)", options_.tokenizer, tokenizer->size());
      return tokenizer;
    }
    // Standard input can be read once, training and encoding need it twice.
    if (std::ranges::find(files_, "-") != files_.end()) spool_.emplace(options_.output.parent_path());
    auto tokenizer = train_on_inputs();
    malloc_trim(0);  // what training took is free, but most of it was not given back
    if (spool_) spool_->flush(), spooled_ = true;
    const VocabularyReport trained = report_.vocabulary;
    report_ = {};
    report_.vocabulary = trained;
    report_.tokenizer = "trained on the input: " + trained.text();
    return tokenizer;
  }

  std::unique_ptr<Tokenizer> train_on_inputs() {
    VocabularyOptions training = options_.training;
    training.rules = options_.rules;
    VocabularyTrainer trainer(training, workers_, options_.raw);
    run_blocks(
        trainer.words(), [&](TextBlock& block, int worker) { trainer.work(block, worker); },
        [&](TextBlock& block) {
          trainer.consume(block);
          for_each_part(block, [](auto&&...) {});
        });
    check_content();
    return trainer.finish(report_.vocabulary, [this] { poll(); });
  }

  void name_commonest_unknown() {
    constexpr std::size_t kMost = 10;
    auto& words = report_.commonest_unknown;
    words.assign(unknown_.begin(), unknown_.end());
    const auto more = [](const auto& a, const auto& b) {
      return a.second != b.second ? a.second > b.second : a.first < b.first;
    };
    const auto most = static_cast<std::ptrdiff_t>(std::min(words.size(), kMost));
    std::partial_sort(words.begin(), words.begin() + most, words.end(), more);
    words.resize(static_cast<std::size_t>(most));
  }

  std::string input_names() const {  // without their folders
    constexpr std::size_t kEnough = 1000;
    std::string text;
    for (const std::string& input : options_.inputs) {
      if (text.size() > kEnough) return text + ", ...";
      fs::path path = fs::path(input).lexically_normal();
      if (!path.has_filename()) path = path.parent_path();
      text += (text.empty() ? "" : ", ") + (input == "-" ? "standard input" : path.filename().string());
    }
    return repair_utf8(text);
  }

  // What was read, by content: the same for a file, for what is in it, and for a pipe that unpacks it.
  std::string source() const {
    std::string text;
    for (const auto& [kind, source] : sources_)
      text += fmt::format("{}{}, {}{} bytes", text.empty() ? "" : "; ", kind,
                          source.inputs == 1 ? "" : fmt::format("{} inputs, ", source.inputs), source.bytes);
    return text;
  }

  std::string counts_json() const {
    std::string skipped;
    for (const auto& [reason, count] : report_.skipped)
      skipped += fmt::format("{}\"{}\":{}", skipped.empty() ? "" : ",", reason, count);
    return fmt::format(
        "{{\"documents\":{},\"skipped\":{{{}}},\"cut\":{},\"input_bytes\":{},\"replaced\":{},\"dropped\":{},"
        "\"special_words\":{},\"unknown\":{}}}",
        report_.documents, skipped, report_.cut_documents, report_.input_bytes, report_.replaced,
        report_.counts.dropped_characters, report_.counts.special_words, report_.counts.unknown);
  }

  const PrepareOptions& options_;
  const Interrupt* interrupt_;
  const std::function<void(const PrepareReport&)>& progress_;
  std::vector<std::string> files_;
  int workers_;
  std::optional<Converter> converter_;
  std::optional<SpoolFile> spool_;  // of standard input
  bool spooled_ = false;            // it has all that is read of it
  struct Source {
    std::uint64_t inputs = 0, bytes = 0;  // unpacked
  };
  std::map<std::string_view, Source> sources_;  // by kind, of the last reading
  std::optional<SeenDocuments> seen_;
  struct {
    std::uint64_t text_bytes = 0;
    EncodeCounts counts;
  } present_;  // the present document so far
  std::unordered_map<std::string, std::uint64_t> unknown_;
  PrepareReport report_;
};

}  // namespace

PrepareReport prepare(const PrepareOptions& options, const Interrupt* interrupt,
                      const std::function<void(const PrepareReport&)>& progress) {
  return Preparation(options, interrupt, progress).run();
}

std::unique_ptr<Tokenizer> train_vocabulary(const PrepareOptions& options, PrepareReport& report,
                                            const Interrupt* interrupt,
                                            const std::function<void(const PrepareReport&)>& progress) {
  return Preparation(options, interrupt, progress).train(report);
}

}  // namespace data
