// The pipeline of `prepare`: inputs -> documents -> repair, conversion and ids on several threads -> a token
// file, or text. Of equal documents the first stays. The output depends on neither the number of threads nor
// the sizes of buffers, nor on names; memory on the number of documents only.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/interrupt.h"
#include "data/token_file.h"
#include "data/tokenizer.h"
#include "data/vocabulary_trainer.h"

namespace data {

struct PrepareOptions {
  std::vector<std::string> inputs;  // paths, folders, "-"
  std::filesystem::path output;     // with `text` also "-"
  std::string vocab, tokenizer;     // files; neither: a vocabulary is trained on the input
  VocabularyOptions training;
  BertRules rules = {};     // WordPiece; in place of training.rules
  bool live_vocab = false;  // WordPiece: only the tokens that can occur
  std::string t2s = "t2s";  // an OpenCC configuration or "off"
  Split split;
  std::uint64_t seed = 1;
  bool raw = false, text = false;
  bool keep_duplicates = false;  // only count documents whose text came before, do not drop them
  std::string text_field, separator;
  std::uint64_t limit_bytes = ~std::uint64_t{0};
  int threads = 1;
  std::string made_by;
  // No result depends on these; tests make them small.
  std::size_t window_bytes = 256 << 10, part_bytes = 64 << 10, block_bytes = 256 << 10;
};

struct PrepareReport {
  std::uint64_t documents = 0, cut_documents = 0, input_bytes = 0, text_bytes = 0;
  std::uint64_t replaced = 0;                    // ill-formed parts of UTF-8 that became U+FFFD
  EncodeCounts counts;                           // as `documents` and `text_bytes`, of what stays
  std::map<std::string, std::uint64_t> skipped;  // by reason
  std::vector<std::string> warnings;             // lines
  std::vector<std::pair<std::string, std::uint64_t>> commonest_unknown;  // at most ten
  TokenFileSummary summary;
  std::string tokenizer;        // what it was made of or read from, for people
  VocabularyReport vocabulary;  // of one that was trained
};

// `progress`, when given, is called after every block with what is known so far. Throws Error (usage: options
// that exclude each other; data: nothing to read in the inputs; checkpoint: the vocabulary; io), Interrupted,
// and OutputClosed; then nothing is left of the output.
PrepareReport prepare(const PrepareOptions&, const Interrupt* interrupt = nullptr,
                      const std::function<void(const PrepareReport&)>& progress = {});

// The vocabulary that prepare() would train on the inputs, for options.output: nothing is written, and of the
// options those of the split and of the vocabulary's files do not matter. Throws as prepare() does.
std::unique_ptr<Tokenizer> train_vocabulary(const PrepareOptions&, PrepareReport&,
                                            const Interrupt* interrupt = nullptr,
                                            const std::function<void(const PrepareReport&)>& progress = {});

}  // namespace data
