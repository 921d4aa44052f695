#include "data/vocabulary_trainer.h"

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "engine/error.h"

namespace data {

std::string VocabularyReport::text() const {
  if (kind == VocabularyKind::character)
    return fmt::format("{} tokens, {:.4f} % of the text's characters", character.size,
                       100 * character.coverage());
  std::string line = fmt::format("{} tokens, the last for a pair found {} times; all bytes can be encoded",
                                 bbpe.size, bbpe.rarest);
  if (sampled_documents < documents)
    line += fmt::format("; trained on {:.0f} MB of {:.0f} MB, {} of {} documents, drawn at random",
                        static_cast<double>(sampled_bytes) / 1e6, static_cast<double>(bytes) / 1e6,
                        sampled_documents, documents);
  return line;
}

VocabularyTrainer::VocabularyTrainer(const VocabularyOptions& options, int workers, bool raw)
    : options_(options), raw_(raw), sample_(options.sample_bytes, options.sample_seed), workers_(workers) {
  // What the options cannot give is refused before the text is read: an empty text fails in the same way.
  if (options_.kind == VocabularyKind::bbpe) {
    train_byte_bpe({}, {.vocab_size = options_.size, .poll = {}});
    return;
  }
  for (int i = 0; i < workers; ++i) counters_.push_back(std::make_unique<CharCounter>(options_.rules));
  counters_[0]->finish(options_.size, options_.coverage);
}

WordRule VocabularyTrainer::words() const noexcept {
  return options_.kind == VocabularyKind::bbpe ? WordRule::gpt2 : WordRule::bert;
}

void VocabularyTrainer::work(const TextBlock& block, int worker) {
  if (options_.kind != VocabularyKind::character) return;
  std::size_t begin = 0;
  for (const Part& part : block.parts) {
    counters_[static_cast<std::size_t>(worker)]->add(
        std::string_view(block.converted).substr(begin, part.converted_end - begin));
    begin = part.converted_end;
  }
}

void VocabularyTrainer::consume(const TextBlock& block) {
  if (options_.kind != VocabularyKind::bbpe) return;
  std::size_t begin = 0;
  for (const Part& part : block.parts) {
    document_.append(block.converted, begin, part.converted_end - begin);
    begin = part.converted_end;
    if (part.then == PartEnd::abandoned) document_.clear();
    if (part.then != PartEnd::whole && !raw_) continue;
    document_.shrink_to_fit();
    sample_.add(std::exchange(document_, {}));
  }
}

std::unique_ptr<Tokenizer> VocabularyTrainer::finish(VocabularyReport& report,
                                                     const std::function<void()>& poll) {
  report.kind = options_.kind;
  if (options_.kind == VocabularyKind::character) {
    for (std::size_t i = 1; i < counters_.size(); ++i) counters_[0]->merge(*counters_[i]);
    return counters_[0]->finish(options_.size, options_.coverage, &report.character);
  }
  report.documents = sample_.documents();
  report.bytes = sample_.bytes();
  report.sampled_documents = sample_.kept_documents();
  report.sampled_bytes = sample_.kept_bytes();
  return train_byte_bpe(count_sample(poll), {.vocab_size = options_.size, .poll = poll}, &report.bbpe);
}

// Each thread takes the next document and counts for itself; sums do not depend on who counted what.
WordCounts VocabularyTrainer::count_sample(const std::function<void()>& poll) {
  std::vector<std::string> documents = sample_.take();
  std::atomic<std::size_t> next = 0;
  std::vector<WordCounts> counts(static_cast<std::size_t>(workers_));
  std::exception_ptr error;
  const auto count = [&](WordCounts& own, bool polls) {
    for (std::size_t i = next++; i < documents.size(); i = next++) {
      if (polls && poll) poll();
      own.add(documents[i]);
      std::string().swap(documents[i]);
    }
  };
  std::mutex mutex;
  {
    std::vector<std::jthread> threads;
    const auto guarded = [&](WordCounts& own, bool polls) {
      try {
        count(own, polls);
      } catch (...) {
        next = documents.size();
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
      }
    };
    for (std::size_t i = 1; i < counts.size(); ++i)
      threads.emplace_back([&, i] { guarded(counts[i], false); });
    guarded(counts[0], true);
  }
  if (error) std::rethrow_exception(error);
  malloc_trim(0);  // the documents are gone, but their memory lies between what lives on
  for (std::size_t i = 1; i < counts.size(); ++i) counts[0].merge(std::exchange(counts[i], {}));
  return std::move(counts[0]);
}

}  // namespace data
