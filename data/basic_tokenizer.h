// BERT's BasicTokenizer: from text to words, Han characters and punctuation, in one pass with one table
// look-up a character. The rules and their order are those of pytorch_pretrained_bert 0.6 (docs/data.md,
// "WordPiece").
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>

#include "data/code_point_table.h"
#include "data/utf8.h"

namespace data {

inline constexpr std::size_t kMaxWordCharacters = 100;  // what is longer is [UNK] whatever it says

struct BertRules {
  bool lower = true;  // lower-case and strip marks
  // As Hugging Face's tokenizers: their classes of characters, no final sigma, no special words.
  bool hugging_face = false;
  bool operator==(const BertRules&) const = default;
};

// What a character does to the word that is being read. Packed: one load a character.
struct Action {
  enum Kind : std::uint32_t {
    dropped,      // nothing
    letter,       // adds the character `payload`
    space,        // ends the word
    other,        // rare: several letters or none, Σ, "[" (payload: its token), marks that NFD may reorder
    han,          // ends the word and is a token of its own: `payload`
    punctuation,  // the same, but the text on both sides is still one blank-separated word
  };
  Kind kind : 3 = dropped;
  std::uint32_t payload : 29 = 0;

  bool is_token() const noexcept { return kind >= han; }
};
static_assert(sizeof(Action) == 4);
using ActionTable = CodePointTable<Action>;

// `token` gives the payload (below 2^29) of a character that is a token of its own: Han or punctuation, after
// folding.
ActionTable make_actions(BertRules, const std::function<std::uint32_t(char32_t)>& token);

// The word being read, at most kMaxWordCharacters of it.
struct Word {
  char bytes[4 * kMaxWordCharacters];
  std::size_t length = 0;
  std::size_t characters = 0;  // one more than kMaxWordCharacters: too long
  std::size_t fixed = 0;       // bytes that canonical reordering cannot reach

  void add(char32_t c) noexcept {
    if (characters < kMaxWordCharacters) length += put_utf8(bytes + length, c);
    characters += characters <= kMaxWordCharacters ? 1 : 0;
  }
  void clear() noexcept { length = characters = fixed = 0; }
  bool too_long() const noexcept { return characters > kMaxWordCharacters; }
  std::string_view text() const noexcept { return {bytes, length}; }
};

inline constexpr std::array<std::string_view, 5> kSpecialWords = {"[UNK]", "[SEP]", "[PAD]", "[CLS]",
                                                                  "[MASK]"};

// Where one of kSpecialWords stands alone between blanks (or Han, or the ends
// of the text).
struct SpecialWord {
  std::string_view name;      // empty: none here
  const char* end = nullptr;  // behind the word
  std::size_t dropped = 0;    // characters inside it that cleaning removes
};
// `bracket` points to a "[" in `text`.
SpecialWord special_word_at(std::string_view text, const char* bracket);

// Adds the folding of the character at [start, end) of `text` to `word`. Punctuation in it is left to
// `punctuation`.
void add_folded(std::string_view text, const char* start, const char* end, Word& word);

// Calls, in the order of the text,
//   sink.word(const Word&)                                  for each word between blanks, Han and
//   punctuation, sink.token(std::uint32_t payload, std::string_view as)  for each Han or punctuation
//   character (`as`: in the text), sink.special(std::string_view name)                     for each of the
//   five special words, sink.dropped(std::size_t characters).
template <class Sink> void split_words(const ActionTable& actions, std::string_view text, Sink& sink) {
  Word word;
  const auto end_word = [&] {
    if (word.characters == 0) return;
    sink.word(word);
    word.clear();
  };
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    const char* const start = at;
    const Action action = actions[next_code_point(at)];
    if (action.is_token()) [[likely]] {
      end_word();
      sink.token(action.payload, std::string_view(start, at));
      continue;
    }
    switch (action.kind) {
      case Action::letter: word.add(action.payload); break;
      case Action::han:
      case Action::punctuation: break;  // dealt with above
      case Action::space: end_word(); break;
      case Action::dropped: sink.dropped(1); break;
      case Action::other:
        if (*start != '[') {
          add_folded(text, start, at, word);
        } else if (const SpecialWord special = special_word_at(text, start); !special.name.empty()) {
          end_word();
          sink.special(special.name);
          sink.dropped(special.dropped);
          at = special.end;
        } else {
          end_word();
          sink.token(action.payload, std::string_view(start, at));
        }
        break;
    }
  }
  end_word();
}

}  // namespace data
