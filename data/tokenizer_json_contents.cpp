#include "data/tokenizer_json_contents.h"

#include <nlohmann/json.hpp>

#include "data/tokenizer.h"
#include "engine/error.h"

namespace data {
namespace {

using nlohmann::json;

constexpr std::size_t kMostTokens = std::size_t{1} << 20;
constexpr std::size_t kMostSettings = 1000;
constexpr std::size_t kMostLevels = 16;

// A SAX reader: it sees names that occur twice, which a parsed object would hide, holds each string once, and
// stops at the first thing that has no place, so depth and memory stay bounded.
class ContentsReader : public json::json_sax_t {
 public:
  explicit ContentsReader(TokenizerJsonContents& contents) : contents_(contents) {}

  bool start_object(std::size_t) override { return begin(false); }
  bool start_array(std::size_t) override { return begin(true); }
  bool end_object() override { return end(); }
  bool end_array() override { return end(); }
  bool key(string_t& name) override { return key_ = name, true; }
  bool string(string_t& text) override {
    switch (place()) {
      case Place::merges: {
        const std::size_t blank = text.find(' ');
        if (blank == text.npos) return reject_merge();
        contents_.merges.push_back({text.substr(0, blank), text.substr(blank + 1)});
        return check_number(contents_.merges.size(), "merges");
      }
      case Place::merge:
        if (parts_ == 2) return reject_merge();
        contents_.merges.back()[parts_++] = text;
        return true;
      case Place::added_token:
        if (key_ == "content") contents_.added.back().name = text;
        return true;
      default: return value('"' + text + '"');
    }
  }
  bool number_unsigned(number_unsigned_t number) override {
    switch (place()) {
      case Place::vocabulary:
        if (number >= kNoToken) return reject(fmt::format("the token id {}", number));
        contents_.tokens.emplace_back(key_, static_cast<std::uint32_t>(number));
        return check_number(contents_.tokens.size(), "tokens");
      case Place::added_token:
        if (key_ == "id") contents_.added.back().id = number;
        return true;
      default: return value(std::to_string(number));
    }
  }
  bool boolean(bool truth) override {
    if (place() == Place::added_token && key_ == "special") contents_.added.back().special = truth;
    return value(truth ? "true" : "false");
  }
  bool null() override { return value("null"); }
  bool number_integer(number_integer_t number) override { return value(std::to_string(number)); }
  bool number_float(number_float_t, const string_t& text) override { return value(text); }
  bool binary(binary_t&) override { return reject("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    return reject(fmt::format("no JSON at byte {}", position));
  }

  std::string error;

 private:
  enum class Place { outside, settings, vocabulary, merges, merge, added, added_token, ignored };
  struct Level {
    Place place;
    bool array;
    std::string path = "";    // of settings
    std::size_t members = 0;  // of an array, so far
  };
  Place place() const { return levels_.empty() ? Place::outside : levels_.back().place; }

  bool begin(bool array) {
    if (levels_.size() == kMostLevels)
      return reject(fmt::format("values nested more than {} deep", kMostLevels));
    switch (place()) {
      case Place::outside: return array ? reject("a list") : enter({Place::settings, array});
      case Place::settings: return begin_setting(array);
      case Place::merges:
        if (!array) return reject_merge();
        contents_.merges.emplace_back();
        parts_ = 0;
        return enter({Place::merge, array}) && check_number(contents_.merges.size(), "merges");
      case Place::added:
        if (array) return reject("an added token that is no object");
        contents_.added.emplace_back();
        return enter({Place::added_token, array}) && check_number(contents_.added.size(), "added tokens");
      case Place::added_token:
      case Place::ignored: return enter({Place::ignored, array});
      case Place::vocabulary:
      case Place::merge: break;
    }
    return value("");
  }
  bool begin_setting(bool array) {
    const std::string path = here();
    if (!note(path, array ? "a list" : "an object")) return false;
    if (path == "model/vocab") return enter({array ? Place::ignored : Place::vocabulary, array});
    if (path == "model/merges") return enter({array ? Place::merges : Place::ignored, array});
    if (path == "added_tokens") return enter({array ? Place::added : Place::ignored, array});
    return enter({Place::settings, array, path});
  }
  bool enter(Level level) { return levels_.push_back(std::move(level)), true; }
  bool end() {
    if (place() == Place::merge && parts_ != 2) return reject_merge();
    return levels_.pop_back(), true;
  }

  // What is none of the strings and numbers that are looked for.
  bool value(std::string spelled) {
    switch (place()) {
      case Place::settings: return note(here(), std::move(spelled));
      case Place::outside: return reject("a value that is no object");
      case Place::vocabulary: return reject(fmt::format("the token '{}' without an id", key_));
      case Place::merges:
      case Place::merge: return reject_merge();
      case Place::added: return reject("an added token that is no object");
      case Place::added_token:
      case Place::ignored: return true;
    }
    return false;
  }
  // The place of the present value in settings.
  std::string here() {
    Level& level = levels_.back();
    std::string path = level.path.empty() ? "" : level.path + '/';
    if (level.array) return path += std::to_string(level.members++);
    for (const char c : key_) {
      if (c == '/') path += '\\';  // the name "a/b" is not b in a
      path += c;
    }
    return path;
  }
  bool note(const std::string& path, std::string spelled) {
    if (contents_.settings.size() == kMostSettings)
      return reject(fmt::format("more than {} settings", kMostSettings));
    return contents_.settings.emplace(path, std::move(spelled)).second ||
           reject(fmt::format("{} twice", path));
  }

  bool check_number(std::size_t number, const char* what) {
    return number <= kMostTokens || reject(fmt::format("more than {} {}", kMostTokens, what));
  }
  bool reject_merge() {
    return reject(fmt::format("merge {}, which is neither \"a b\" nor [\"a\", \"b\"]",
                              contents_.merges.size() + (place() == Place::merges)));
  }
  bool reject(std::string what) {
    if (error.empty()) error = std::move(what);
    return false;
  }

  TokenizerJsonContents& contents_;
  std::vector<Level> levels_;
  std::string key_;
  std::size_t parts_ = 0;  // of the present merge
};

}  // namespace

TokenizerJsonContents read_tokenizer_json(std::string_view text, const std::string& where) {
  TokenizerJsonContents contents;
  ContentsReader reader(contents);
  engine::require(json::sax_parse(text, &reader), engine::Exit::checkpoint,
                  "{}: {}; expected a tokenizer.json as Hugging Face's tokenizers save it", where,
                  reader.error);
  return contents;
}

}  // namespace data
