#include <algorithm>
#include <memory>
#include <unordered_map>

#include "data/byte_letters.h"
#include "data/foreign_bpe.h"
#include "data/gpt2_words.h"
#include "data/tokenizer_json.h"
#include "data/tokenizer_json_contents.h"
#include "engine/error.h"

namespace data {
namespace {

using engine::Exit;
using engine::fail;
using engine::require;

// Everything that says how text becomes ids must say what byte-level BPE does here.
class Settings {
 public:
  Settings(const std::map<std::string, std::string>& settings, const std::string& where)
      : settings_(settings), where_(where) {}

  void check() const {
    require(at("model") == "an object", Exit::checkpoint,
            "{}: is JSON without a model, expected a tokenizer.json (a vocab.json lacks the merges)", where_);
    expect("version", {"\"1.0\"", kAbsent});
    expect("model/type", {"\"BPE\"", kAbsent});  // the first versions wrote none
    expect("model/vocab", {"an object"});
    expect("model/merges", {"a list"});
    expect("model/dropout", {"null", "0.0", kAbsent});
    expect("model/byte_fallback", {"false", kAbsent});
    expect("model/ignore_merges", {"false", "true", kAbsent});
    for (const char* affix : {"model/continuing_subword_prefix", "model/end_of_word_suffix"})
      expect(affix, {"null", "\"\"", kAbsent});
    expect("added_tokens", {"a list", kAbsent});
    expect("normalizer", {"null", kAbsent});
    const std::string words = only("pre_tokenizer", "pretokenizers");
    expect(words + "/type", {"\"ByteLevel\""});
    expect(words + "/add_prefix_space", {"false"});
    expect(words + "/use_regex", {"true", kAbsent});
    if (at("post_processor") != "null" && at("post_processor") != kAbsent)  // ByteLevel changes no ids
      expect(only("post_processor", "processors") + "/type", {"\"ByteLevel\""});
    expect(only("decoder", "decoders") + "/type", {"\"ByteLevel\""});
  }
  bool ignore_merges() const { return at("model/ignore_merges") == "true"; }

 private:
  static constexpr std::string_view kAbsent = "";

  std::string_view at(const std::string& path) const {
    const auto found = settings_.find(path);
    return found == settings_.end() ? kAbsent : std::string_view(found->second);
  }
  // The section, or what it is a sequence of if that is one thing.
  std::string only(const std::string& section, const std::string& list) const {
    const std::string first = section + "/" + list + "/0", second = section + "/" + list + "/1";
    const bool one = settings_.contains(first) && !settings_.contains(second);
    return at(section + "/type") == "\"Sequence\"" && one ? first : section;
  }
  void expect(const std::string& path, std::initializer_list<std::string_view> allowed) const {
    if (std::ranges::find(allowed, at(path)) != allowed.end()) return;
    const std::string_view type = at(path + "/type"), value = type == kAbsent ? at(path) : type;
    fail(Exit::checkpoint,
         "{}: {} is {}, expected {}: only byte-level BPE with GPT-2's rules can be read; take a "
         "tokenizer.json that has them, or train a vocabulary with tokenizer train",
         where_, path, value == kAbsent ? "not there" : value, *allowed.begin());
  }

  const std::map<std::string, std::string>& settings_;
  const std::string& where_;
};

// A token that stands for something that is not text: text that looks like it is rare, and is text here.
bool names_a_marker(std::string_view name) { return name.starts_with('<') && name.ends_with('>'); }

class Builder {
 public:
  Builder(const TokenizerJsonContents& contents, const std::string& where)
      : contents_(contents), where_(where) {}

  std::unique_ptr<Tokenizer> build(bool ignore_merges) {
    find_names();
    add_bytes();
    for (const auto& [left, right] : contents_.merges) add_merge(left, right);
    for (std::uint32_t id = 0; id < names_.size(); ++id) {
      if (native_[id] != kNoToken || markers_.contains(id)) continue;
      require(names_a_marker(names_[id]), Exit::checkpoint,
              "{}: no merge makes the token '{}', id {}, and it is no added token; expected one of the two",
              where_, names_[id], id);
      markers_.emplace(id, names_[id]);
    }
    if (ignore_merges) check_whole_words();
    auto bpe = std::make_unique<ByteBpe>(merged_, where_);
    check_parts(*bpe);
    const bool native =
        markers_ == ForeignBpe::Markers{{0, std::string(kEndOfText)}} && std::ranges::is_sorted(ids_);
    if (native) return bpe;
    return std::make_unique<ForeignBpe>(std::move(bpe), ids_, std::move(markers_), where_);
  }

 private:
  // Names and ids belong together, ids are 0 to size - 1.
  void find_names() {
    for (const auto& [name, id] : contents_.tokens)
      require(id_of_.emplace(name, id).second, Exit::checkpoint, "{}: the token '{}' twice in model/vocab",
              where_, name);
    for (const auto& [name, number, special] : contents_.added) {
      require(number.has_value() && *number < kNoToken && !name.empty(), Exit::checkpoint,
              "{}: the added token '{}' has no id or no content", where_, name);
      const auto id = static_cast<std::uint32_t>(*number);
      const std::uint32_t known = id_of_.emplace(name, id).first->second;
      require(known == id, Exit::checkpoint,
              "{}: the token '{}' has id {} in model/vocab, {} in added_tokens", where_, name, known, id);
      require(
          special || names_a_marker(name), Exit::checkpoint,
          "{}: the added token '{}' is a piece of ordinary text, which would be encoded otherwise; expected "
          "special ones and names like <this>",
          where_, name);
      require(markers_.emplace(id, name).second, Exit::checkpoint, "{}: id {} twice in added_tokens", where_,
              id);
    }
    names_.resize(id_of_.size());
    native_.assign(id_of_.size(), kNoToken);
    for (const auto& [name, id] : contents_.tokens) place(name, id);
    for (const auto& [id, name] : markers_) place(name, id);
  }
  void place(const std::string& name, std::uint32_t id) {
    require(id < names_.size(), Exit::checkpoint,
            "{}: the token '{}' has id {}, expected 0 to {} without holes", where_, name, id,
            names_.size() - 1);
    std::string_view& there = names_[id];
    require(there.data() == nullptr || there == name, Exit::checkpoint,
            "{}: the tokens '{}' and '{}' both have id {}", where_, there, name, id);
    there = name;
  }

  // Numbers the token next, as ByteBpe does.
  void number(std::uint32_t id) {
    require(!markers_.contains(id), Exit::checkpoint,
            "{}: the added token '{}' is one that text becomes as well; expected others", where_, names_[id]);
    ids_.push_back(id);
    native_[id] = static_cast<std::uint32_t>(ids_.size());
  }
  void add_bytes() {
    for (const unsigned char byte : kBytesByLetter) {
      const auto character = static_cast<char>(byte);
      const std::string letter = spell_bytes({&character, 1});
      const auto found = id_of_.find(letter);
      require(found != id_of_.end(), Exit::checkpoint,
              "{}: no token '{}' for the byte {:#04x}, expected all 256, as a trainer with "
              "initial_alphabet=ByteLevel.alphabet() makes them",
              where_, letter, byte);
      number(found->second);
    }
  }
  std::uint32_t part(const std::string& name) const {
    const auto found = id_of_.find(name);
    require(found != id_of_.end() && native_[found->second] != kNoToken, Exit::checkpoint,
            "{}: merge {} joins '{}', expected a byte or what an earlier merge makes", where_,
            merged_.size() + 1, name);
    return native_[found->second];
  }
  void add_merge(const std::string& left, const std::string& right) {
    parts_.push_back({part(left), part(right)});
    const std::string name = left + right;
    const auto found = id_of_.find(name);
    require(found != id_of_.end(), Exit::checkpoint, "{}: merge {} makes '{}', which is not in model/vocab",
            where_, merged_.size() + 1, name);
    require(native_[found->second] == kNoToken, Exit::checkpoint,
            "{}: merge {} makes '{}' again; expected it once", where_, merged_.size() + 1, name);
    number(found->second);
    merged_.push_back(bytes_of_spelling(name).value());
  }

  // ByteBpe finds out which tokens each one joins.
  void check_parts(const ByteBpe& bpe) const {
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      const auto found = bpe.parts(kFirstMerged + static_cast<std::uint32_t>(i));
      require(found == parts_[i], Exit::checkpoint,
              "{}: merge {} joins '{}' and '{}', but the ones before it make '{}' and '{}' of that; expected "
              "merges in the order of training",
              where_, i + 1, bpe.piece(parts_[i][0]), bpe.piece(parts_[i][1]), bpe.piece(found[0]),
              bpe.piece(found[1]));
    }
  }

  // ignore_merges takes a whole word that is in model/vocab as its token. What merges make comes out of them
  // as well.
  void check_whole_words() const {
    for (const auto& [id, name] : markers_) {
      const auto bytes = bytes_of_spelling(name);
      require(!bytes.has_value() || gpt2_word(*bytes) < bytes->size(), Exit::checkpoint,
              "{}: model/ignore_merges makes '{}' of a word, which no merge does; expected it false", where_,
              name);
    }
  }

  const TokenizerJsonContents& contents_;
  const std::string& where_;
  std::unordered_map<std::string_view, std::uint32_t> id_of_;
  std::vector<std::string_view> names_;              // [id]
  std::vector<std::uint32_t> native_;                // [id] -> id in ByteBpe
  std::vector<std::uint32_t> ids_;                   // [id in ByteBpe - 1] -> id
  std::vector<std::string> merged_;                  // bytes of what each merge makes
  std::vector<std::array<std::uint32_t, 2>> parts_;  // [merge] what it joins, as ids in ByteBpe
  ForeignBpe::Markers markers_;
};

}  // namespace

bool begins_as_json(std::string_view bytes) {
  constexpr std::string_view kBlanks = " \t\r\n", kMark = "\xEF\xBB\xBF";
  if (bytes.starts_with(kMark)) bytes.remove_prefix(kMark.size());
  const auto skip_blanks = [&] {
    bytes.remove_prefix(std::min(bytes.find_first_not_of(kBlanks), bytes.size()));
  };
  skip_blanks();
  if (!bytes.starts_with('{')) return false;
  bytes.remove_prefix(1);
  skip_blanks();
  return bytes.starts_with('"') && !bytes.starts_with("\"\n") && !bytes.starts_with("\"\r");
}

std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& where) {
  const TokenizerJsonContents contents = read_tokenizer_json(text, where);
  const Settings settings(contents.settings, where);
  settings.check();
  return Builder(contents, where).build(settings.ignore_merges());
}

}  // namespace data
