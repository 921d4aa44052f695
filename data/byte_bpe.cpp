#include "data/byte_bpe.h"

#include <algorithm>
#include <bit>
#include <unordered_set>

#include "data/byte_letters.h"
#include "data/gpt2_words.h"
#include "data/sha256.h"
#include "data/text_cut.h"
#include "data/utf8.h"
#include "engine/error.h"

namespace data {
namespace {

using engine::Exit;
using engine::fail;
using engine::require;

constexpr std::string_view kPayload = "bbpe\n";
constexpr std::size_t kMostTokens = std::size_t{1} << 24;
constexpr std::size_t kMostCharacters =
    128;  // of a word that is merged by looking at all its pairs each time

// The bytes of each id. End-of-text has none, so that no text is ever taken for it.
std::vector<std::string> all_tokens(const std::vector<std::string>& merged, const std::string& where) {
  std::vector<std::string> tokens{""};
  for (const unsigned char byte : kBytesByLetter) tokens.emplace_back(1, static_cast<char>(byte));
  std::unordered_set<std::string_view> known;
  std::size_t bytes = tokens.size();
  require(merged.size() < kMostTokens - tokens.size(), Exit::checkpoint,
          "{}: {} tokens, expected fewer than {}", where, merged.size() + tokens.size(), kMostTokens);
  for (const std::string& token : merged) {
    const std::size_t merge = known.size() + 1;
    require(2 <= token.size() && token.size() <= kMaxTokenBytes, Exit::checkpoint,
            "{}: merge {} makes a token of {} bytes, expected 2 to {}", where, merge, token.size(),
            kMaxTokenBytes);
    if (!known.insert(token).second)
      fail(Exit::checkpoint, "{}: merge {} makes '{}' again; expected it once", where, merge,
           spell_bytes(token));
    bytes += token.size();
    require(bytes < PieceTrie::kMaxBytes, Exit::checkpoint, "{}: over {} bytes, too large for a vocabulary",
            where, PieceTrie::kMaxBytes);
  }
  tokens.insert(tokens.end(), merged.begin(), merged.end());
  return tokens;
}

}  // namespace

// The tokens of a word so far, kept between words for its memory.
struct ByteBpe::Path {
  std::vector<std::uint32_t> ids;
  std::vector<bool> dead;  // [bytes of the word] no token goes on from here; empty: none known
};

ByteBpe::ByteBpe(const std::vector<std::string>& merged, const std::string& where)
    : trie_(std::span<const std::string>{}), merges_(merged.size()) {
  const std::vector<std::string> all = all_tokens(merged, where);
  trie_ = PieceTrie(all);
  tokens_.resize(all.size());
  for (std::uint32_t id = 0; id < size(); ++id) {
    spelled_at_.push_back(spelled_.size());
    bytes_at_.push_back(bytes_.size());
    (spelled_ += id == 0 ? kEndOfText : spell_bytes(all[id])) += '\n';
    bytes_ += all[id];
    tokens_[id].bytes = static_cast<std::uint32_t>(all[id].size());
    if (!all[id].empty())
      tokens_[id].shorter =
          trie_.longest(PieceTrie::kRoot, std::string_view(all[id]).substr(0, all[id].size() - 1)).id;
  }
  spelled_at_.push_back(spelled_.size());
  bytes_at_.push_back(bytes_.size());
  // Each token is encoded with those before it, whose merges are known by then.
  Path path;
  for (std::uint32_t id = kFirstMerged; id < size(); ++id) {
    search(all[id], id, path);
    require(
        path.ids.size() == 2, Exit::checkpoint,
        "{}: merge {} makes '{}', which falls into {} earlier tokens, expected the two that it joins; the "
        "file is damaged",
        where, id - kFirstMerged + 1, piece(id), path.ids.size());
    tokens_[id].left = path.ids[0];
    tokens_[id].right = path.ids[1];
    merges_.add(path.ids[0], path.ids[1], id);
  }
  find_characters();
}

// Most words can be encoded from their whole characters: merges inside one do not depend on its neighbours,
// unless a merge joins across its border while it, or the neighbour, is still in parts. The first of those in
// a word joins two tokens of which neither reaches across a border yet, and at least one is a part of a
// character.
void ByteBpe::find_characters() {
  enum class Shape : std::uint8_t { whole, part, mixed };  // characters, a part of one, more with parts
  const auto shape_of = [](std::string_view bytes) {
    if (is_well_formed(bytes)) return Shape::whole;
    const auto begins = [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; };
    return std::any_of(bytes.begin() + 1, bytes.end(), begins) ? Shape::mixed : Shape::part;
  };
  // The first merge across a border that takes the token on its left, or on its right; kNoToken: none.
  std::vector<std::uint32_t> as_left(size(), kNoToken), as_right(size(), kNoToken);
  std::vector<Shape> shapes(size(), Shape::whole);
  for (std::uint32_t id = 1; id < size(); ++id) {
    const std::string_view bytes = bytes_of(id);
    shapes[id] = shape_of(bytes);
    if (shapes[id] == Shape::whole) {
      const char* at = bytes.data();
      const char32_t character = next_code_point(at);
      if (at == bytes.data() + bytes.size()) characters_.cell(character).id = id;
    }
    const auto [left, right, shorter, size] = tokens_[id];
    if (shapes[id] != Shape::mixed || left == kNoToken) continue;
    if (shapes[left] == Shape::mixed || shapes[right] == Shape::mixed) continue;
    if (shapes[left] == Shape::whole) {
      const char* end = bytes_of(left).data() + bytes_of(left).size();
      characters_.cell(previous_code_point(end)).open_right = 1;
    } else {
      as_left[left] = std::min(as_left[left], id);
    }
    if (shapes[right] == Shape::whole) {
      const char* at = bytes_of(right).data();
      characters_.cell(next_code_point(at)).open_left = 1;
    } else {
      as_right[right] = std::min(as_right[right], id);
    }
  }
  for (std::uint32_t id = kFirstMerged; id < size(); ++id) {
    if (shapes[id] != Shape::whole) continue;
    const char* at = bytes_of(id).data();
    Character& character = characters_.cell(next_code_point(at));
    if (character.id != id) continue;
    // Each part at the character's edge is there until the next larger one is made.
    for (std::uint32_t whole = id, part = tokens_[id].right; part != kNoToken;
         whole = part, part = tokens_[part].right)
      if (as_left[part] < whole) character.open_right = 1;
    for (std::uint32_t whole = id, part = tokens_[id].left; part != kNoToken;
         whole = part, part = tokens_[part].left)
      if (as_right[part] < whole) character.open_left = 1;
  }
}

std::string_view ByteBpe::piece(std::uint32_t id) const {
  require(id < size(), Exit::data, "token id {} is outside the vocabulary; expected 0 to {}", id, size() - 1);
  return std::string_view(spelled_).substr(spelled_at_[id], spelled_at_[id + 1] - spelled_at_[id] - 1);
}

// Whether the encoding of the two tokens' bytes is these two tokens. Goes back in time, undoing at the place
// where they meet the later of the two merges there, first the right one of a merge that happened on both
// sides. Between two steps the tokens that met there stayed apart unless their own merge was due in that
// time.
bool ByteBpe::stand_together(std::uint32_t left, std::uint32_t right) const noexcept {
  std::uint32_t until = kNoToken;  // merges from here on have been undone
  for (;;) {
    if (merges_.find(left, right) < until) return false;
    if (right >= left) {
      // Merges go from left to right, so of three equal tokens the left two are joined: `left` with a part of
      // `right`.
      until = right + 1;
      right = tokens_[right].left;
    } else {
      until = left;
      left = tokens_[left].right;
    }
    if (left == kNoToken || right == kNoToken) return true;  // there were only bytes
  }
}

// Leaves the encoding of `word` in path.ids, with the tokens below `below` alone. A sequence of tokens is an
// encoding exactly if each two neighbours are the encoding of their bytes: were there a first merge across a
// border, it would happen between these two alone as well. So every beginning of the word has one last token,
// and the search that takes the longest token that stands with the one before it, and goes back where there
// is none, comes by each place once.
void ByteBpe::search(std::string_view word, std::uint32_t below, Path& path) const {
  path.ids.clear();
  path.dead.clear();
  std::size_t at = 0;
  std::uint32_t next = trie_.longest(PieceTrie::kRoot, word).id;
  for (;;) {
    const auto fits = [&](std::uint32_t id) {
      const std::size_t end = at + tokens_[id].bytes;
      return id < below && (path.dead.empty() || end == word.size() || !path.dead[end]) &&
             (path.ids.empty() || stand_together(path.ids.back(), id));
    };
    while (next != kNoToken && !fits(next)) next = tokens_[next].shorter;
    if (next != kNoToken) {
      path.ids.push_back(next);
      at += tokens_[next].bytes;
      if (at == word.size()) return;
      next = trie_.longest(PieceTrie::kRoot, word.substr(at)).id;
    } else {
      if (path.dead.empty()) path.dead.resize(word.size());
      path.dead[at] = true;
      const std::uint32_t last = path.ids.back();
      path.ids.pop_back();
      at -= tokens_[last].bytes;
      next = tokens_[last].shorter;
    }
  }
}

// Appends the encoding of a well-formed word by merging whole characters; false, and nothing done, for a word
// too long for that and where a character is not to be taken whole.
bool ByteBpe::merge_characters(std::string_view word, std::vector<std::uint32_t>& ids) const {
  std::array<std::uint32_t, kMostCharacters> tokens,
      joined;  // joined[i]: what tokens i and i + 1 would become
  std::size_t count = 0;
  bool open = false;
  for (const char* at = word.data(); at != word.data() + word.size();) {
    const Character character = characters_[next_code_point(at)];
    if (character.id == 0 || count == kMostCharacters || (open && character.open_left)) return false;
    open = character.open_right;
    tokens[count++] = character.id;
  }
  for (std::size_t i = 0; i + 1 < count; ++i) joined[i] = merges_.find(tokens[i], tokens[i + 1]);
  while (count > 1) {
    std::uint32_t first = kNoToken;
    for (std::size_t i = 0; i + 1 < count; ++i) first = std::min(first, joined[i]);
    if (first == kNoToken) break;
    std::size_t at = 0;
    while (joined[at] != first) ++at;
    tokens[at] = first;
    --count;
    std::copy(tokens.begin() + at + 2, tokens.begin() + count + 1, tokens.begin() + at + 1);
    std::copy(joined.begin() + at + 1, joined.begin() + count, joined.begin() + at);
    if (at > 0) joined[at - 1] = merges_.find(tokens[at - 1], first);
    if (at + 1 < count) joined[at] = merges_.find(first, tokens[at + 1]);
  }
  ids.insert(ids.end(), tokens.begin(), tokens.begin() + count);
  return true;
}

void ByteBpe::encode(std::string_view text, std::vector<std::uint32_t>& ids, EncodeCounts* counts,
                     std::vector<std::string>*) const {
  const std::size_t before = ids.size();
  const bool well_formed = is_well_formed(text);
  Path path;
  for_each_gpt2_word(text, [&](std::string_view word) {
    if ((well_formed || is_well_formed(word)) && merge_characters(word, ids)) return;
    search(word, size(), path);
    ids.insert(ids.end(), path.ids.begin(), path.ids.end());
  });
  if (counts != nullptr) counts->tokens += ids.size() - before;
}

std::string ByteBpe::decode(std::span<const std::uint32_t> ids) const {
  std::string text;
  for (const std::uint32_t id : ids) {
    require(id < size(), Exit::data, "token id {} is outside the vocabulary; expected 0 to {}", id,
            size() - 1);
    text.append(bytes_, bytes_at_[id], tokens_[id].bytes);
  }
  return text;
}

std::size_t ByteBpe::settled(std::string_view decoded) const { return whole_characters(decoded); }

std::string ByteBpe::serialize() const {
  return std::string(kPayload).append(spelled_, 0, spelled_.size() - 1);
}

std::string ByteBpe::vocab_sha256() const {
  return sha256_hex(std::string_view(spelled_).substr(0, spelled_.size() - 1));
}

std::unique_ptr<ByteBpe> parse_byte_bpe(std::string_view payload, const std::string& where) {
  require(payload.starts_with(kPayload), Exit::checkpoint, "{}: does not begin with 'bbpe'", where);
  payload.remove_prefix(kPayload.size());
  std::vector<std::string> merged;
  std::uint32_t id = 0;
  for (std::size_t from = 0; from <= payload.size(); ++id) {
    const std::size_t to = std::min(payload.find('\n', from), payload.size());
    const std::string_view line = payload.substr(from, to - from);
    from = to + 1;
    if (id == 0) {
      require(line == kEndOfText, Exit::checkpoint, "{}: line 1 is not {}, the first token of byte-level BPE",
              where, kEndOfText);
      continue;
    }
    auto bytes = bytes_of_spelling(line);
    require(bytes.has_value(), Exit::checkpoint,
            "{}: line {} holds a character that stands for no byte; the file is damaged", where, id + 1);
    if (id >= kFirstMerged) {
      merged.push_back(std::move(*bytes));
    } else {
      const auto expected = static_cast<char>(kBytesByLetter[id - 1]);
      require(*bytes == std::string_view(&expected, 1), Exit::checkpoint,
              "{}: line {} is not '{}'; expected the 256 bytes in the order of their letters; the file is "
              "damaged",
              where, id + 1, spell_bytes({&expected, 1}));
    }
  }
  require(id >= kFirstMerged, Exit::checkpoint, "{}: {} tokens, expected at least {}", where, id,
          kFirstMerged);
  return std::make_unique<ByteBpe>(merged, where);
}

}  // namespace data
