// Training of a `char` vocabulary: BERT's rules on the text, then its most frequent characters. One counting
// pass.
#pragma once
#include <cstdint>
#include <memory>
#include <string_view>

#include "data/basic_tokenizer.h"
#include "data/wordpiece.h"

namespace data {

// What a vocabulary covers of the text it was made from. A character counts once for each time it is read,
// after lower-casing; one at the start of a word and one inside a word ("##") are different entries.
struct CharVocabReport {
  std::uint64_t characters = 0;  // read, without blanks and dropped ones
  std::uint64_t covered = 0;     // of these, in the vocabulary
  std::uint64_t distinct = 0;    // different entries seen
  std::uint32_t size = 0;        // of the vocabulary
  double coverage() const noexcept { return characters == 0 ? 1.0 : double(covered) / double(characters); }
};

class CharCounter {
 public:
  explicit CharCounter(BertRules = {});
  // Counts a piece of well-formed text. Pieces end at blanks or line ends (anywhere a word ends).
  void add(std::string_view text);
  // Adds what another counter with the same rules has seen; the order of merges does not matter.
  void merge(const CharCounter& other);

  // The vocabulary: [PAD] [UNK] [CLS] [SEP] [MASK]; every printable ASCII character that can come out of the
  // text rules (lower-cased: no capitals); "##" forms of letters and digits; then the most frequent entries
  // seen (ties: by code point, start of a word first) until the share `coverage` of all characters is covered
  // or vocab_size is reached. Throws Error(usage) for a coverage outside (0, 1] and for a vocab_size below
  // the fixed entries; it names them.
  std::unique_ptr<WordPiece> finish(std::uint32_t vocab_size, double coverage = 0.9999,
                                    CharVocabReport* report = nullptr) const;

 private:
  class Sink;
  struct Times {
    std::uint64_t head = 0, inside = 0;  // at the start of a word, or alone; inside a word
  };

  BertRules rules_;
  ActionTable actions_;
  CodePointTable<Times> counts_;
};

}  // namespace data
