#include "data/t2s.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <opencc/Config.hpp>
#include <opencc/Conversion.hpp>
#include <opencc/ConversionChain.hpp>
#include <opencc/Converter.hpp>
#include <opencc/DictEntry.hpp>
#include <opencc/DictGroup.hpp>
#include <opencc/Exception.hpp>
#include <opencc/Lexicon.hpp>
#include <opencc/MaxMatchSegmentation.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "data/code_point_table.h"
#include "data/piece_trie.h"
#include "data/sha256.h"
#include "data/utf8.h"
#include "engine/error.h"

namespace data {
namespace {

struct Dictionary {
  std::vector<std::string> keys, values;  // sorted by key, each key once; of several values the first
};

// The dictionaries in the order in which OpenCC asks them: the first that has any match at a place decides.
void collect(const opencc::DictPtr& dictionary, std::vector<Dictionary>& found) {
  if (const auto* group = dynamic_cast<const opencc::DictGroup*>(dictionary.get())) {
    for (const opencc::DictPtr& member : group->GetDicts()) collect(member, found);
    return;
  }
  std::map<std::string, std::string> entries;
  const opencc::LexiconPtr lexicon = dictionary->GetLexicon();
  for (std::size_t i = 0; i < lexicon->Length(); ++i) {
    const opencc::DictEntry& entry = *lexicon->At(i);
    const std::string key = entry.Key(), value = entry.GetDefault();
    if (key.empty() || key.find('\n') != std::string::npos || !is_well_formed(key) ||
        !is_well_formed(value)) {
      throw std::runtime_error("a dictionary entry is empty, not UTF-8 or holds a line feed");
    }
    entries.emplace(key, value);
  }
  Dictionary& taken = found.emplace_back();
  for (const auto& [key, value] : entries) {
    taken.keys.push_back(key);
    taken.values.push_back(value);
  }
}

std::vector<Dictionary> collect(const opencc::DictPtr& dictionary) {
  std::vector<Dictionary> found;
  collect(dictionary, found);
  return found;
}

struct Configuration {
  std::vector<Dictionary> segmentation;
  std::vector<std::vector<Dictionary>> steps;  // [conversions, dictionaries]
};

bool is_one_character(const std::string& key) { return key.size() == utf8_length(key.front()); }

// Replaces, from left to right, the longest key at each place.
class Matcher {
 public:
  explicit Matcher(std::vector<Dictionary> dictionaries) {
    for (char32_t c = 0; c <= kLastOrdinary; ++c)
      if (is_scalar(c)) keep(c);
    for (Dictionary& dictionary : dictionaries) {
      for (std::size_t i = 0; i < dictionary.keys.size(); ++i)
        learn(dictionary.keys[i], dictionary.values[i]);
      tries_.emplace_back(dictionary.keys);
      values_.push_back(std::move(dictionary.values));
    }
  }

  struct Match {
    std::size_t bytes = 0;  // of the key; 0: none
    std::string_view value;
  };
  Match match(std::string_view text) const {
    for (std::size_t i = 0; i < tries_.size(); ++i) {
      const PieceTrie::Match found = tries_[i].longest(PieceTrie::kRoot, text);
      if (found.id != kNoToken) return {found.bytes, values_[i][found.id]};
    }
    return {};
  }

  void convert(std::string_view text, std::string& out) const {
    constexpr std::size_t kBlock = 1024;  // bytes of text, each at most one cell of output
    char buffer[kBlock * sizeof(Cell)];
    const char* at = text.data();
    const char* const end = at + text.size();
    while (at != end) {
      char* to = buffer;
      const auto flush = [&] {
        out.append(buffer, static_cast<std::size_t>(std::exchange(to, buffer) - buffer));
      };
      const char* const block_end = at + std::min(kBlock, static_cast<std::size_t>(end - at));
      while (at < block_end) {
        const char* const start = at;
        const char32_t c = next_code_point(at);
        const Cell& cell = cells_[c];
        if (!may_begin_phrase(cell, at, end)) [[likely]] {
          std::memcpy(to, &cell, sizeof(cell));  // with rubbish behind the value: one load, one store
          to += cell.bytes;
          continue;
        }
        const Match found = match(std::string_view(start, end));
        if (found.bytes > 0) {
          flush();
          out += found.value;
          at = start + found.bytes;
        } else {
          to += put_utf8(to, c);
        }
      }
      flush();
    }
  }

 private:
  static constexpr char32_t kLastOrdinary = 0xFFFF;  // rarer characters are searched for
  static constexpr std::uint16_t kNoPhrases = 1, kAnyPhrase = 0;

  struct Cell {  // what becomes of a character
    char value[5] = {};
    std::uint8_t bytes = 0;              // of `value`
    std::uint16_t phrases = kAnyPhrase;  // index into next_
  };
  static_assert(sizeof(Cell) == 8);

  static bool is_scalar(char32_t c) { return c < 0xD800 || c > 0xDFFF; }

  void keep(char32_t c) {
    Cell& cell = cells_.cell(c);
    cell.bytes = static_cast<std::uint8_t>(put_utf8(cell.value, c));
    cell.phrases = kNoPhrases;
  }

  // One of 64 bits for what follows the first character of a phrase.
  static std::uint64_t bit_of(const char* next) {
    const auto byte = [next](int i) { return std::uint32_t{static_cast<unsigned char>(next[i])}; };
    return std::uint64_t{1} << ((byte(0) << 16 | byte(1) << 8 | byte(2)) * 0x9E3779B1u >> 26);
  }
  bool may_begin_phrase(const Cell& cell, const char* next, const char* end) const {
    return end - next < kNextBytes || (next_[cell.phrases] & bit_of(next)) != 0;
  }

  void learn(const std::string& key, const std::string& value) {
    const char* next = key.data();
    const char32_t c = next_code_point(next);
    Cell& cell = cells_.cell(c);
    if (cell.phrases == kAnyPhrase) return;
    if (is_one_character(key)) {
      // The first dictionary's entry counts.
      if (!singles_.insert(c).second) return;
      cell.bytes = static_cast<std::uint8_t>(value.size());
      if (value.size() <= sizeof(cell.value)) std::memcpy(cell.value, value.data(), value.size());
      else cell.phrases = kAnyPhrase;
      return;
    }
    if (key.data() + key.size() - next < kNextBytes || next_.size() > 0xFFFF) {
      cell.phrases = kAnyPhrase;
      return;
    }
    if (cell.phrases == kNoPhrases) {
      cell.phrases = static_cast<std::uint16_t>(next_.size());
      next_.push_back(0);
    }
    next_[cell.phrases] |= bit_of(next);
  }

  static constexpr std::ptrdiff_t kNextBytes = 3;

  CodePointTable<Cell> cells_;
  std::vector<std::uint64_t> next_{~std::uint64_t{0}, 0};  // bits of all that may follow in a phrase
  std::set<char32_t> singles_;                             // characters with an entry of their own
  std::vector<PieceTrie> tries_;                           // [dictionaries]
  std::vector<std::vector<std::string>> values_;           // [dictionaries, keys]
};

// With a single step that asks the segmentation's dictionary first and else only for single characters, a
// match can neither cross a segment's end nor begin elsewhere than a segment does.
bool needs_segments(const Configuration& loaded) {
  if (loaded.steps.size() != 1 || loaded.segmentation.size() != 1) return true;
  const std::vector<Dictionary>& step = loaded.steps.front();
  if (step.empty() || step.front().keys != loaded.segmentation.front().keys) return true;
  return !std::all_of(step.begin() + 1, step.end(), [](const Dictionary& dictionary) {
    return std::all_of(dictionary.keys.begin(), dictionary.keys.end(), is_one_character);
  });
}

// Everything that the result depends on, in the order of use.
std::string fingerprint(const Configuration& loaded) {
  std::string all;
  const auto add = [&all](const std::vector<Dictionary>& dictionaries) {
    for (const Dictionary& dictionary : dictionaries) {
      for (std::size_t i = 0; i < dictionary.keys.size(); ++i) {
        all += dictionary.keys[i] + '\t' + dictionary.values[i] + '\n';
      }
      all += '\n';
    }
    all += '\n';
  };
  add(loaded.segmentation);
  for (const std::vector<Dictionary>& step : loaded.steps) add(step);
  return sha256_hex(all).substr(0, 16);
}

constexpr std::string_view kFingerprint116 = "a277bab155f152ca";  // of t2s.json in release 1.1.6

// Reads one spelling of a configuration; nothing, and the reason, if OpenCC does not have it.
std::optional<Configuration> read(const std::string& name, std::string& reason) {
  try {
    const opencc::ConverterPtr loaded = opencc::Config().NewFromFile(name);
    const auto* mmseg = dynamic_cast<const opencc::MaxMatchSegmentation*>(loaded->GetSegmentation().get());
    if (mmseg == nullptr) throw std::runtime_error("its segmentation is not mmseg");
    Configuration configuration{collect(mmseg->GetDict()), {}};
    for (const opencc::ConversionPtr& conversion : loaded->GetConversionChain()->GetConversions()) {
      configuration.steps.push_back(collect(conversion->GetDict()));
    }
    return configuration;
  } catch (const opencc::Exception& error) {  // no std::exception
    reason = error.what();
  } catch (const std::exception& error) {
    reason = error.what();
  }
  std::replace(reason.begin(), reason.end(), '\n', ' ');
  return std::nullopt;
}

Configuration load(const std::string& config) {
  std::string reason, first_reason;
  if (config.find('/') == std::string::npos && !config.ends_with(".json")) {
    if (auto found = read(config + ".json", first_reason)) return std::move(*found);
  } else {
    if (auto found = read(config, first_reason)) return std::move(*found);
    if (auto found = read(config + ".json", reason)) return std::move(*found);
  }
  engine::fail(
      engine::Exit::usage,
      "--t2s {}: OpenCC cannot load this configuration ({}); install OpenCC with `make deps`, name another "
      "configuration, or use `--t2s off`",
      config, first_reason);
}

}  // namespace

struct Converter::Chain {
  std::optional<Matcher> segmentation;  // absent where it changes nothing
  std::vector<Matcher> steps;

  // Sends one segment through every step.
  void convert_segment(std::string_view segment, std::string& out) const {
    std::string text(segment), next;
    for (const Matcher& step : steps) {
      next.clear();
      step.convert(text, next);
      text.swap(next);
    }
    out += text;
  }
};

Converter::Converter(const std::string& config) : config_(config) {
  Configuration loaded = load(config);
  const std::string print = fingerprint(loaded);
  version_ = print == kFingerprint116 ? "1.1.6" : "sha256:" + print;
  auto chain = std::make_unique<Chain>();
  if (needs_segments(loaded)) chain->segmentation.emplace(std::move(loaded.segmentation));
  for (std::vector<Dictionary>& step : loaded.steps) chain->steps.emplace_back(std::move(step));
  chain_ = std::move(chain);
}

Converter::~Converter() = default;

void Converter::convert(std::string_view text, std::string& out) const {
  if (!chain_->segmentation) return chain_->steps.front().convert(text, out);
  std::size_t begin = 0, at = 0;  // [begin, at): characters that are in no phrase, one segment together
  while (at < text.size()) {
    const Matcher::Match phrase = chain_->segmentation->match(text.substr(at));
    if (phrase.bytes == 0) {
      at += utf8_length(text[at]);
      continue;
    }
    if (begin < at) chain_->convert_segment(text.substr(begin, at - begin), out);
    chain_->convert_segment(text.substr(at, phrase.bytes), out);
    begin = at += phrase.bytes;
  }
  if (begin < text.size()) chain_->convert_segment(text.substr(begin), out);
}

std::string Converter::convert(std::string_view text) const {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  convert(text, out);
  return out;
}

}  // namespace data
