#include "data/basic_tokenizer.h"

#include <array>
#include <cstring>

#include "data/hugging_face.h"
#include "data/unicode_tables.h"

namespace data {
namespace {

using namespace char_class;

constexpr char32_t kSigma = 0x3A3, kFinalSigma = 0x3C2;

// Whether the sigma at [sigma, behind) is lower-cased to its final form: a cased letter before and none
// behind, both within the blank-separated word (Unicode 15, table 3-17, Final_Sigma; as Python's str.lower).
bool is_final_sigma(std::string_view text, const char* sigma, const char* behind) {
  const auto decides = [](std::uint8_t bits) { return (bits & (kDropped | kCaseIgnorable)) == 0; };
  const auto cased = [](std::uint8_t bits) { return (bits & (kSpace | kHan)) == 0 && (bits & kCased) != 0; };
  bool cased_before = false;
  for (const char* at = sigma; at != text.data();) {
    const std::uint8_t bits = class_of(previous_code_point(at));
    if (!decides(bits)) continue;
    cased_before = cased(bits);
    break;
  }
  if (!cased_before) return false;
  for (const char* at = behind; at != text.data() + text.size();) {
    const std::uint8_t bits = class_of(next_code_point(at));
    if (decides(bits)) return !cased(bits);
  }
  return true;
}

// Canonical ordering (Unicode 15, 3.11, D109) of a character that is kept and of a class above 0.
void add_reordered(char32_t c, Word& word) {
  const std::size_t before = word.length;
  word.add(c);
  if (word.length == before) return;  // the word is too long anyway
  const std::uint8_t order = combining_class(c);
  const char* place = word.bytes + before;
  for (const char* at = place; at != word.bytes + word.fixed;) {
    if (combining_class(previous_code_point(at)) <= order) break;
    place = at;
  }
  char bytes[4];
  const std::size_t size = put_utf8(bytes, c);
  char* const to = word.bytes + (place - word.bytes);
  std::memmove(to + size, to, before - static_cast<std::size_t>(place - word.bytes));
  std::memcpy(to, bytes, size);
}

}  // namespace

ActionTable make_actions(BertRules rules, const std::function<std::uint32_t(char32_t)>& token) {
  const auto class_by_rules = rules.hugging_face ? hugging_face_class_of : class_of;
  const auto fold_by_rules = rules.hugging_face ? hugging_face_fold : fold;
  ActionTable table;
  for (char32_t c = 0; c <= kLastCodePoint; ++c) {
    const std::uint8_t bits = class_by_rules(c);
    if ((bits & kDropped) != 0) continue;
    const Folded to = rules.lower ? fold_by_rules(c) : Folded{{c}, 1};
    if (to.size == 0 && (bits & kMark) == 0) continue;  // a mark of old
    const std::uint8_t to_bits = to.size == 1 ? class_by_rules(to.characters[0]) : std::uint8_t{0};
    const bool reorders = rules.lower && (bits & kReordered) != 0;
    const bool looks_around = !rules.hugging_face && (c == '[' || (rules.lower && c == kSigma));
    Action action{Action::letter, to.characters[0]};
    if ((bits & kSpace) != 0) {
      action = {Action::space, 0};
    } else if ((bits & kHan) != 0) {
      action = {Action::han, token(to.characters[0])};
    } else if (looks_around) {
      action = {Action::other, c == '[' ? token(c) : 0};
    } else if (to.size != 1 || reorders) {
      action = {Action::other, 0};
    } else if ((to_bits & kPunctuation) != 0) {
      action = {Action::punctuation, token(to.characters[0])};
    }
    table.cell(c) = action;
  }
  return table;
}

SpecialWord special_word_at(std::string_view text, const char* bracket) {
  for (const char* at = bracket; at != text.data();) {
    const std::uint8_t bits = class_of(previous_code_point(at));
    if ((bits & (kSpace | kHan)) != 0) break;
    if ((bits & kDropped) == 0) return {};
  }
  std::array<char, 6> cleaned;
  std::size_t size = 0;
  SpecialWord special;
  const char* at = bracket;
  while (at != text.data() + text.size()) {
    const char* const start = at;
    const char32_t c = next_code_point(at);
    const std::uint8_t bits = class_of(c);
    if ((bits & (kSpace | kHan)) != 0) {
      at = start;
      break;
    }
    if ((bits & kDropped) != 0) {
      ++special.dropped;
      continue;
    }
    if (size == cleaned.size() || c >= 0x80) return {};
    cleaned[size++] = static_cast<char>(c);
  }
  for (const std::string_view candidate : kSpecialWords) {
    if (candidate == std::string_view(cleaned.data(), size)) return {candidate, at, special.dropped};
  }
  return {};
}

void add_folded(std::string_view text, const char* start, const char* end, Word& word) {
  const char* at = start;
  const char32_t c = next_code_point(at);
  if (c == kSigma && is_final_sigma(text, start, end)) return word.add(kFinalSigma);
  // A mark that is left out still separates what canonical ordering may move, if its own class is 0.
  if ((class_of(c) & (kMark | kReordered)) == kMark) word.fixed = word.length;
  const Folded folded = fold(c);
  for (const char32_t part : folded.view()) {
    if (combining_class(part) > 0) {
      add_reordered(part, word);
    } else {
      word.add(part);
    }
  }
}

}  // namespace data
