#include "data/text_cut.h"

#include <algorithm>
#include <string>

#include "data/gpt2_words.h"
#include "data/unicode_tables.h"
#include "data/utf8.h"

namespace data {
namespace {

constexpr std::size_t kPhraseBytes = 128;  // more than the longest phrase of any OpenCC dictionary
constexpr int kTries = 64;

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

bool after_blank(std::string_view text, std::size_t at) {
  return text[at - 1] == ' ' || text[at - 1] == '\t';
}

// A lead byte begins a character whatever is before it, so three bytes are enough to see the common blocks.
bool after_han(std::string_view text, std::size_t at) {
  if (at < 3 || !is_continuation(text[at - 1])) return false;
  const char* lead = text.data() + at - 3;
  if (static_cast<unsigned char>(*lead) < 0xE3 || static_cast<unsigned char>(*lead) > 0xEF) return false;
  return is_well_formed({lead, 3}) && (class_of(next_code_point(lead)) & char_class::kHan) != 0;
}

// ASCII punctuation that is not case-ignorable (a sigma looks past those), and not the edge of "[UNK]" and
// its like, which are special when they stand alone: characters that are dropped do not part them from it.
bool after_punctuation(std::string_view text, std::size_t at) {
  constexpr std::string_view kMarks = "!\"#$%&()*+,-/;<=>?@\\_{|}~";
  if (at == text.size() || kMarks.find(text[at - 1]) == kMarks.npos || text[at] == '[') return false;
  const std::string_view next = text.substr(at, utf8_length(text[at]));
  const char* start = next.data();
  return is_well_formed(next) && (class_of(next_code_point(start)) & char_class::kDropped) == 0;
}

bool between_words(std::string_view text, std::size_t at) {
  return at < text.size() && parts_gpt2_words(text, at);
}

bool after_line_end(std::string_view text, std::size_t at) {
  return text[at - 1] == '\n' && between_words(text, at);
}

bool keeps_phrases(std::string_view text, std::size_t at, const Converter* converter) {
  if (converter == nullptr) return true;
  const std::string right = repair_utf8(text.substr(at, kPhraseBytes));
  const std::string right_converted = converter->convert(right);
  const std::size_t first = at - std::min(at, kPhraseBytes);
  for (std::size_t start = at; start-- > first;) {  // a match may begin at any character before the cut
    if (is_continuation(text[start])) continue;
    const std::string left = repair_utf8(text.substr(start, at - start));
    if (converter->convert(left + right) != converter->convert(left) + right_converted) return false;
  }
  return true;
}

}  // namespace

std::size_t safe_cut(std::string_view text, WordRule words, const Converter* converter) {
  const std::size_t half = text.size() / 2;
  const std::size_t line = text.rfind('\n');
  if (words == WordRule::bert && line != text.npos && line >= half) return line + 1;
  // What a phrase could go on with must be in sight.
  const std::size_t ahead = converter == nullptr ? 0 : std::min(kPhraseBytes, text.size() / 4);
  using Candidate = bool (*)(std::string_view, std::size_t);
  static constexpr Candidate kBert[] = {after_blank, after_han, after_punctuation};
  static constexpr Candidate kGpt2[] = {after_line_end, between_words};
  for (const Candidate is_candidate : words == WordRule::bert ? std::span<const Candidate>(kBert) : kGpt2) {
    int tries = 0;
    for (std::size_t at = text.size() - ahead; at > std::max<std::size_t>(half, 1) && tries < kTries; --at) {
      if (!is_candidate(text, at)) continue;
      if (keeps_phrases(text, at, converter)) return at;
      ++tries;
    }
  }
  const std::size_t whole = whole_characters(text);
  return whole > 0 ? whole : text.size();
}

std::size_t whole_characters(std::string_view text) noexcept {
  std::size_t lead = text.size();
  while (lead > 0 && text.size() - lead < 3 && is_continuation(text[lead - 1])) --lead;
  if (lead == 0) return text.size();
  --lead;
  const auto byte = static_cast<unsigned char>(text[lead]);
  return byte >= 0xC2 && byte <= 0xF4 && lead + utf8_length(text[lead]) > text.size() ? lead : text.size();
}

}  // namespace data
