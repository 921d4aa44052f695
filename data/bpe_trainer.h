// Training of byte-level BPE. The merges and their order are those of Hugging Face's BpeTrainer without a
// minimum frequency: always the pair with the most occurrences, of equal ones the pair with the lower left
// id, then the lower right id (docs/data.md, "Byte-level BPE").
#pragma once
#include <cstdint>
#include <functional>
#include <memory>

#include "data/byte_bpe.h"
#include "data/word_counts.h"

namespace data {

struct BpeTraining {
  std::uint32_t vocab_size = 0;  // tokens at most; fewer if no pair is left
  std::function<void()> poll;    // called often; may throw
};

struct BpeReport {
  std::uint64_t text_bytes = 0;
  std::uint64_t words = 0;   // different ones
  std::uint64_t rarest = 0;  // occurrences of the last pair that was merged
  std::uint32_t size = 0;    // of the vocabulary
};

// Takes the counts, whose memory it frees on the way. No pair is merged to more than kMaxTokenBytes. Throws
// Error(usage) for a vocab_size below kFirstMerged; it names it.
std::unique_ptr<ByteBpe> train_byte_bpe(WordCounts counts, const BpeTraining&, BpeReport* report = nullptr);

}  // namespace data
