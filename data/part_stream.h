// Documents as blocks of about equal size for the workers of `prepare`: small documents share a block, large
// ones are cut into parts where that changes neither conversion nor ids.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "data/document_reader.h"
#include "data/t2s.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace data {

enum class PartEnd : std::uint8_t { open, whole, abandoned };  // the document after this part

struct Part {
  std::size_t text_end = 0;  // it begins where the part before it ends
  PartEnd then = PartEnd::open;
  // whole: SplitHash of the title, or of the document's text where there is none (or no title yet)
  std::uint64_t hash = 0;
  bool hash_of_text = false;  // a worker is to take it: of a whole document in this part
  // From here on the text is a page's wikitext with its XML entities, which a worker is to clean; it also
  // takes back a page of which nothing stays (abandoned, TextBlock::empty_pages).
  static constexpr std::size_t kNoWikitext = ~std::size_t{0};
  std::size_t wikitext_from = kNoWikitext;  // in the part
  bool marked = false;                      // the text has verbatim marks (data/wikitext.h),
  bool verbatim = false;                    // and begins between two of them
  // Filled in by a worker:
  std::size_t converted_end = 0, ids_end = 0;
  EncodeCounts counts = {};
};

struct TextBlock {
  std::string text;  // as read
  std::vector<Part> parts;
  std::uint64_t input_bytes = 0;  // unpacked, read until here
  // Filled in by a worker:
  std::string converted;  // repaired, and simplified where wanted
  std::vector<std::uint32_t> ids;
  std::uint64_t replaced = 0;
  std::uint64_t empty_pages = 0;
  std::vector<std::string> unknown_words;

  void clear();  // keeps the memory
};

class PartStream final : public DocumentSink {
 public:
  struct Options {
    bool raw = false;  // one document without limits, which is never ended
    std::uint64_t seed = 1;
    WordRule words = WordRule::bert;  // of the tokenizer
    const Converter* converter = nullptr;
    std::size_t part_bytes = 64 << 10;  // largest part
    std::size_t block_bytes = 256 << 10;
    // Larger documents are cut behind the last part that fits: behind a line end if a line fits half a part.
    std::uint64_t document_bytes = 32 << 20;
  };
  // `push` receives each block and may leave another one in its place, for its memory.
  PartStream(Options, std::function<void(TextBlock&)> push);

  void begin() override;
  void text(std::string_view piece) override;
  void marked_text(std::string_view piece) override;
  void end(std::string_view title) override;
  void abandon() override;
  bool page(std::string_view title, std::string_view source) override;
  void skip(std::string_view reason) override { ++skipped_[std::string(reason)]; }
  void warn(std::string line) override { warnings_.push_back(std::move(line)); }

  void set_input_bytes(std::uint64_t bytes) noexcept { block_.input_bytes = bytes; }
  // Hands on what is left. `limited`: a raw stream ends at a limit, so an unfinished character is left out.
  void finish(bool limited);

  const std::map<std::string, std::uint64_t>& skipped() const noexcept { return skipped_; }
  const std::vector<std::string>& warnings() const noexcept { return warnings_; }
  std::uint64_t cut_documents() const noexcept { return cut_documents_; }

 private:
  void emit(std::size_t bytes, PartEnd then, std::string_view title = {},
            std::size_t wikitext_from = Part::kNoWikitext);
  void push_block();

  Options options_;
  std::function<void(TextBlock&)> push_;
  TextBlock block_;
  std::size_t pending_ = 0;    // from here on the block's text is of the present document and in no part yet
  std::uint64_t emitted_ = 0;  // bytes of the present document in parts
  bool has_text_ = false;      // the present document is not blank
  bool part_open_ = false;     // the last part belongs to the present document
  bool marked_ = false;        // the present document has marked_text()
  bool verbatim_ = false;      // what is pending begins between two marks
  SplitHash text_hash_;        // of the present document's parts
  bool hashed_ = false;        // text_hash_ knows any of them
  std::map<std::string, std::uint64_t> skipped_;
  std::vector<std::string> warnings_;
  std::uint64_t cut_documents_ = 0;
};

}  // namespace data
