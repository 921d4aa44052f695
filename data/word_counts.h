// How often each word of a text occurs: what byte-level BPE is trained on.
#pragma once
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace data {

class WordCounts {
 public:
  struct Word {
    const char* begin;
    std::uint32_t bytes;
    std::uint64_t times;
    std::string_view text() const noexcept { return {begin, bytes}; }
  };

  // Counts GPT-2's words in each line of any bytes; a line ends behind its LF, and no word reaches across, as
  // in training from files by Hugging Face's tokenizers. Throws Error(data) for a word of 4 GiB.
  void add(std::string_view text);
  // Adds what another counter has seen. What is trained does not depend on the order of the words.
  void merge(const WordCounts& other);

  const std::vector<Word>& words() const noexcept { return words_; }  // all different
  std::uint64_t text_bytes() const noexcept { return text_bytes_; }   // of all texts added

 private:
  struct Slot {
    std::uint32_t hash = 0, number = 0;  // of the word, from 1; 0: none
  };
  void add_word(std::string_view word, std::uint64_t times);
  void grow();
  const char* keep(std::string_view word);

  std::vector<Word> words_;
  std::vector<Slot> slots_;                      // open addressing, at most half full
  std::vector<std::unique_ptr<char[]>> blocks_;  // the words' bytes
  char* end_ = nullptr;                          // of what the last block holds
  std::size_t room_ = 0;                         // behind it
  std::uint64_t text_bytes_ = 0;
};

}  // namespace data
