#include "data/wordpiece.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <unordered_map>

#include "data/sha256.h"
#include "data/unicode_tables.h"
#include "engine/error.h"

namespace data {
namespace {

using engine::Exit;

constexpr std::string_view kContinues = "##";

// The first line of a payload.
std::string_view heading(BertRules rules) {
  if (rules.hugging_face) return rules.lower ? "wordpiece lower hf\n" : "wordpiece cased hf\n";
  return rules.lower ? "wordpiece lower\n" : "wordpiece cased\n";
}

// Refuses what cannot be a vocabulary; on return every token is well-formed, without LF and unlike all
// others.
std::vector<std::string> checked(std::vector<std::string> tokens, const std::string& where) {
  std::unordered_map<std::string_view, std::size_t> lines;
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::string& token = tokens[i];
    const std::size_t line = i + 1;
    bytes += token.size() + 1;
    engine::require(bytes < kMaxVocabularyBytes, Exit::checkpoint,
                    "{}: over {} bytes, too large for a vocabulary", where, kMaxVocabularyBytes);
    engine::require(is_well_formed(token), Exit::checkpoint,
                    "{}: line {} is not UTF-8; expected a vocabulary, a token "
                    "a line",
                    where, line);
    engine::require(token.find('\n') == std::string::npos, Exit::checkpoint, "{}: token {} holds a line feed",
                    where, line);
    const auto [first, is_new] = lines.emplace(token, line);
    engine::require(is_new, Exit::checkpoint,
                    "{}: line {} repeats the token of line {}; expected each token once", where, line,
                    first->second);
  }
  return tokens;
}

std::vector<std::string> split_lines(std::string_view text) {
  std::vector<std::string> lines;
  for (std::size_t from = 0; from <= text.size();) {
    const std::size_t to = std::min(text.find('\n', from), text.size());
    lines.emplace_back(text.substr(from, to - from));
    from = to + 1;
  }
  return lines;
}

std::uint32_t id_of(const PieceTrie& trie, std::string_view token) {
  const PieceTrie::Match match = trie.longest(PieceTrie::kRoot, token);
  return match.bytes == token.size() ? match.id : kNoToken;
}

// Whether a blank must have stood between this character and a neighbour like it, both in words of their own.
bool in_word(char32_t c) { return (class_of(c) & (char_class::kHan | char_class::kPunctuation)) == 0; }

bool starts_in_word(std::string_view text) {
  const char* at = text.data();
  return in_word(next_code_point(at));
}

bool ends_in_word(std::string_view text) {
  const char* at = text.data() + text.size();
  return in_word(previous_code_point(at));
}

bool continues(std::string_view piece) {
  return piece.size() > kContinues.size() && piece.starts_with(kContinues);
}

}  // namespace

// What split_words() calls; gathers ids in a small buffer so that the vector grows rarely.
class WordPiece::Encoder {
 public:
  Encoder(const WordPiece& vocabulary, std::vector<std::uint32_t>& ids,
          std::vector<std::string>* unknown_words)
      : trie_(vocabulary.trie_),
        unknown_(vocabulary.unknown_),
        continued_(vocabulary.trie_.after(kContinues)),
        ids_(ids),
        unknown_words_(unknown_words) {}

  void word(const Word& word) {
    if (count_ + kMaxWordCharacters > buffer_.size()) flush();
    const std::size_t before = count_;
    std::string_view rest = word.text();
    PieceTrie::State from = PieceTrie::kRoot;
    if (word.too_long()) return unknown(word.text());
    while (!rest.empty()) {
      const PieceTrie::Match match = trie_.longest(from, rest);
      if (match.id == kNoToken) {
        count_ = before;
        return unknown(word.text());
      }
      buffer_[count_++] = match.id;
      rest.remove_prefix(match.bytes);
      from = continued_;
    }
  }

  void token(std::uint32_t id, std::string_view character) {
    if (count_ == buffer_.size()) flush();
    if (id == unknown_) return unknown(character);
    buffer_[count_++] = id;
  }

  void special(std::string_view name) {
    ++counts.special_words;
    Word letters;
    for (const char c : name) letters.add(static_cast<unsigned char>(c));
    word(letters);
  }

  void dropped(std::size_t characters) { counts.dropped_characters += characters; }

  void flush() {
    ids_.insert(ids_.end(), buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(count_));
    counts.tokens += count_;
    count_ = 0;
  }

  EncodeCounts counts;

 private:
  void unknown(std::string_view text) {
    ++counts.unknown;
    buffer_[count_++] = unknown_;
    if (unknown_words_ != nullptr) unknown_words_->emplace_back(text);
  }

  const PieceTrie& trie_;
  const std::uint32_t unknown_;
  const PieceTrie::State continued_;
  std::vector<std::uint32_t>& ids_;
  std::vector<std::string>* unknown_words_;
  std::size_t count_ = 0;
  std::array<std::uint32_t, 1024> buffer_;
};

WordPiece::WordPiece(std::vector<std::string> tokens, BertRules rules, const std::string& where)
    : tokens_(checked(std::move(tokens), where)),
      rules_(rules),
      trie_(tokens_),
      unknown_(id_of(trie_, "[UNK]")),
      end_of_text_(id_of(trie_, "[SEP]")),
      padding_(id_of(trie_, "[PAD]")),
      classify_(id_of(trie_, "[CLS]")) {
  engine::require(unknown_ != kNoToken, Exit::checkpoint,
                  "{}: no token [UNK] among {}; expected a WordPiece vocabulary (vocab.txt)", where,
                  tokens_.size());
  actions_ = make_actions(rules, [this](char32_t c) {
    std::string text;
    append_utf8(text, c);
    const std::uint32_t id = id_of(trie_, text);
    return id == kNoToken ? unknown_ : id;
  });
}

std::string_view WordPiece::piece(std::uint32_t id) const {
  engine::require(id < size(), Exit::data, "token id {} is outside the vocabulary; expected 0 to {}", id,
                  size() - 1);
  return tokens_[id];
}

void WordPiece::encode(std::string_view text, std::vector<std::uint32_t>& ids, EncodeCounts* counts,
                       std::vector<std::string>* unknown_words) const {
  Encoder encoder(*this, ids, unknown_words);
  split_words(actions_, text, encoder);
  encoder.flush();
  if (counts != nullptr) *counts += encoder.counts;
}

std::string WordPiece::decode(std::span<const std::uint32_t> ids) const {
  std::string text;
  bool after_word = false;
  for (const std::uint32_t id : ids) {
    std::string_view token = piece(id);
    if (token.empty() || id == padding_ || id == classify_ || id == end_of_text_) continue;
    if (continues(token)) {
      token.remove_prefix(kContinues.size());
    } else if (after_word && id != unknown_ && starts_in_word(token)) {
      text += ' ';
    }
    text += token;
    after_word = id != unknown_ && ends_in_word(token);
  }
  return text;
}

std::size_t WordPiece::settled(std::string_view decoded) const {
  const char* at = decoded.data() + decoded.size();
  for (std::size_t held = 0; at != decoded.data(); ++held) {
    if (held == kMaxWordCharacters) return decoded.size();
    const char* const behind = at;
    const char32_t c = previous_code_point(at);
    if (c == ' ' || !in_word(c)) return static_cast<std::size_t>(behind - decoded.data());
  }
  return 0;
}

std::string WordPiece::serialize() const { return std::string(heading(rules_)) += joined(); }

std::string WordPiece::vocab_sha256() const { return sha256_hex(joined()); }

std::string WordPiece::joined() const {
  std::string text;
  for (const std::string& token : tokens_) {
    if (&token != &tokens_.front()) text += '\n';
    text += token;
  }
  return text;
}

bool WordPiece::has_capitals() const noexcept {
  return std::any_of(tokens_.begin(), tokens_.end(), [](const std::string& token) {
    return token.size() == 1 && 'A' <= token[0] && token[0] <= 'Z';
  });
}

std::unique_ptr<WordPiece> parse_wordpiece(std::string_view payload, const std::string& where) {
  for (const BertRules rules : {BertRules{true, false}, {false, false}, {true, true}, {false, true}}) {
    if (!payload.starts_with(heading(rules))) continue;
    return std::make_unique<WordPiece>(split_lines(payload.substr(heading(rules).size())), rules, where);
  }
  engine::fail(Exit::checkpoint,
               "{}: does not begin with a known kind of tokenizer; expected 'wordpiece' or 'bbpe'", where);
}

std::unique_ptr<WordPiece> parse_vocab_txt(std::string_view bytes, BertRules rules,
                                           const std::string& where) {
  if (bytes.starts_with("\xEF\xBB\xBF")) bytes.remove_prefix(3);
  if (bytes.ends_with('\n')) bytes.remove_suffix(1);
  std::vector<std::string> tokens = split_lines(bytes);
  for (std::string& token : tokens) {
    if (token.ends_with('\r')) token.pop_back();
  }
  return std::make_unique<WordPiece>(std::move(tokens), rules, where);
}

std::unique_ptr<WordPiece> read_vocab_txt(const std::filesystem::path& path, BertRules rules) {
  return parse_vocab_txt(read_vocabulary_text(path, kMaxVocabularyBytes), rules, path.string());
}

std::string read_vocabulary_text(const std::filesystem::path& path, std::size_t enough) {
  const std::string name = path.string();
  std::error_code absent;
  engine::require(!std::filesystem::is_directory(path, absent), Exit::checkpoint,
                  "{}: a folder; expected a vocabulary", name);
  std::ifstream file(path, std::ios::binary);
  engine::require(file.is_open(), Exit::checkpoint, "{}: cannot be opened ({}); expected a vocabulary", name,
                  std::strerror(errno));
  constexpr std::size_t kPieceBytes = 64 << 10;
  std::string bytes;
  while (file && bytes.size() < enough) {
    const std::size_t before = bytes.size();
    bytes.resize(before + kPieceBytes);
    file.read(bytes.data() + before, kPieceBytes);
    bytes.resize(before + static_cast<std::size_t>(file.gcount()));
  }
  engine::require(!file.bad(), Exit::checkpoint, "{}: cannot be read ({})", name, std::strerror(errno));
  return bytes;
}

}  // namespace data
