// What the workers of `prepare` do first: wikitext cleaned, UTF-8 repaired, Traditional Chinese simplified.
#pragma once
#include "data/language_markup.h"
#include "data/part_stream.h"
#include "data/t2s.h"

namespace data {

class BlockConverter {
 public:
  // `converter`: may be nullptr, and must outlive this.
  BlockConverter(const Converter* converter, Variant variant) : converter_(converter), variant_(variant) {}

  // Fills in block.converted and every part's converted_end, and counts. Several threads may call it at once.
  void convert(TextBlock& block) const;

 private:
  void append(std::string_view text, bool verbatim, TextBlock& block) const;
  void append_marked(std::string_view text, bool verbatim, TextBlock& block) const;

  const Converter* converter_;
  Variant variant_;
};

}  // namespace data
