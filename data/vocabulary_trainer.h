// Training of a vocabulary on the documents that `prepare` and `tokenizer train` read, block by block.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/bpe_trainer.h"
#include "data/char_vocab.h"
#include "data/document_sample.h"
#include "data/part_stream.h"
#include "data/tokenizer.h"

namespace data {

enum class VocabularyKind : std::uint8_t { bbpe, character };

struct VocabularyOptions {
  VocabularyKind kind = VocabularyKind::bbpe;
  std::uint32_t size = 16384;  // tokens at most
  double coverage = 0.9999;    // character: share of the text's characters to hold
  BertRules rules = {};        // character
  // bbpe: a larger text is sampled by documents; a raw stream by pieces, its text having no documents.
  std::uint64_t sample_bytes = 256 << 20;
  std::uint64_t sample_seed = 1;
};

struct VocabularyReport {
  VocabularyKind kind = VocabularyKind::bbpe;
  BpeReport bbpe;
  CharVocabReport character;
  std::uint64_t documents = 0, bytes = 0;                  // bbpe: of the text
  std::uint64_t sampled_documents = 0, sampled_bytes = 0;  // bbpe: of these, trained on
  std::string text() const;                                // for people, on one line
};

class VocabularyTrainer {
 public:
  // Throws Error(usage) for a size below the fixed entries of the kind, and for a coverage outside (0, 1].
  VocabularyTrainer(const VocabularyOptions&, int workers, bool raw);
  WordRule words() const noexcept;  // parts of documents are to be cut by this rule

  // Called by several threads at once, each with its own number below `workers`. The blocks' text is
  // converted.
  void work(const TextBlock&, int worker);
  void consume(const TextBlock&);  // called for one block after the other, in order
  // The vocabulary, which does not depend on `workers`. Once.
  std::unique_ptr<Tokenizer> finish(VocabularyReport&, const std::function<void()>& poll);

 private:
  WordCounts count_sample(const std::function<void()>& poll);

  VocabularyOptions options_;
  bool raw_;
  std::vector<std::unique_ptr<CharCounter>> counters_;  // [workers]
  DocumentSample sample_;
  std::string document_;  // the present one's text so far
  int workers_;
};

}  // namespace data
