#include <algorithm>
#include <array>
#include <optional>

#include "data/document_reader.h"
#include "data/utf8.h"

// A scanner of our own: a library would refuse lone surrogates and hold whole values. It is lenient inside
// values that are passed over, where only strings and brackets count.
namespace data {
namespace {

constexpr std::array<std::string_view, 5> kUsualFields = {"text", "content", "completion", "abstract",
                                                          "段落"};
constexpr std::array<std::string_view, 2> kItemFields = {"text",
                                                         "内容"};  // of objects in an array of paragraphs
constexpr std::size_t kKeyBytes = 4096;                            // more is cut off
constexpr std::size_t kTitleBytes = 4096;
constexpr std::size_t kPieceBytes = 64 << 10;
constexpr int kEnd = -1;

struct Malformed {};  // thrown and caught below, once an object

class JsonReader {
 public:
  JsonReader(Input& input, std::string field, DocumentSink& sink)
      : input_(input), sink_(sink), field_(std::move(field)) {}

  void read() {
    while (find_object()) {
      try {
        read_object();
      } catch (const Malformed&) {
        if (state_ == Text::open) sink_.abandon();
        if (input_.at_end() && input_.window().empty() && input_.limited()) return;
        sink_.skip("malformed");
        if (!at_line_start_) skip_line();
      }
    }
  }

 private:
  enum class Text : std::uint8_t {
    none,
    open,
    null,
    other
  };  // what the present object has in the text field

  int peek() {
    while (input_.window().empty())
      if (!input_.fill()) return kEnd;
    return static_cast<unsigned char>(input_.window().front());
  }
  int get() {
    const int c = peek();
    if (c == kEnd) return c;
    if (!is_blank_byte(static_cast<char>(c))) at_line_start_ = false;
    else if (c == '\n') at_line_start_ = true;
    input_.consume(1);
    return c;
  }

  void skip_line() {
    for (int c = get(); c != kEnd && c != '\n';) c = get();
  }

  // Moves to the next '{' outside all objects; false at the end. Counts what is none.
  bool find_object() {
    for (;;) {
      const int c = peek();
      if (c == kEnd) return false;
      if (c == '{') return true;
      if (c == '[' && !in_array_ && at_line_start_) {
        in_array_ = many_lines_ = true;
      } else if (c == '\n' && at_line_start_ && !many_lines_) {
        sink_.skip("blank");
      } else if (!is_blank_byte(static_cast<char>(c)) && c != ',' && !(in_array_ && c == ']')) {
        sink_.skip("malformed");
        skip_line();
        continue;
      }
      get();
    }
  }

  // The next byte that is not blank. A line end inside an object is an error unless objects span lines.
  int next_token() {
    for (;;) {
      const int c = peek();
      if (c == kEnd || (c == '\n' && !many_lines_)) throw Malformed();
      if (!is_blank_byte(static_cast<char>(c))) return c;
      get();
    }
  }
  void expect(char wanted) {
    if (next_token() != wanted) throw Malformed();
    get();
  }

  void read_object() {
    state_ = Text::none;
    title_.clear();
    get();
    if (!known_layout_) learn_layout();
    if (field_.empty()) choose_field();
    if (next_token() == '}') return end_object();
    for (;;) {
      read_string(key_, kKeyBytes);
      expect(':');
      if (!field_.empty() && key_ == field_ && state_ != Text::open) read_text();
      else if (key_ == "title" && next_token() == '"') read_string(title_, kTitleBytes);
      else skip_value();
      if (next_token() == '}') return end_object();
      expect(',');
    }
  }

  void end_object() {
    get();
    switch (state_) {
      case Text::open: return sink_.end(title_);
      case Text::null: return sink_.skip("null");
      case Text::other: return sink_.skip("not text");
      case Text::none: return sink_.skip("no text field");
    }
  }

  void read_text() {
    const int c = next_token();
    if (c == '"') {
      sink_.begin();
      state_ = Text::open;
      stream_string();
    } else if (c == '[') {
      sink_.begin();
      state_ = Text::open;
      read_paragraphs();
    } else {
      state_ = c == 'n' ? Text::null : Text::other;
      skip_value();
    }
  }

  // An array of strings, or of objects with a string in one of kItemFields: a line each.
  void read_paragraphs() {
    get();
    if (next_token() == ']') return void(get());
    for (;;) {
      const int c = next_token();
      if (c == '"') {
        stream_string();
        sink_.text("\n");
      } else if (c == '{') {
        read_item();
      } else {
        skip_value();
      }
      if (next_token() == ']') return void(get());
      expect(',');
    }
  }
  void read_item() {
    get();
    if (next_token() == '}') return void(get());
    for (;;) {
      read_string(key_, kKeyBytes);
      expect(':');
      if (std::ranges::find(kItemFields, key_) != kItemFields.end() && next_token() == '"') {
        stream_string();
        sink_.text("\n");
      } else {
        skip_value();
      }
      if (next_token() == '}') return void(get());
      expect(',');
    }
  }

  void skip_value() {
    int depth = 0;
    do {
      const int c = next_token();
      if (c == '"') {
        read_string(skipped_, 0);
      } else if (c == '{' || c == '[') {
        ++depth, get();
      } else if (c == '}' || c == ']') {
        if (depth == 0) throw Malformed();
        --depth, get();
      } else if (depth > 0) {
        get();
      } else {
        skip_word();
      }
    } while (depth > 0);
  }
  void skip_word() {  // a number, true, false, null
    constexpr std::string_view kWord = "+-.0123456789abcdefghijklmnopqrstuvwxyzE";
    int length = 0;
    for (int c = peek(); c != kEnd && kWord.find(static_cast<char>(c)) != kWord.npos; c = peek())
      get(), ++length;
    if (length == 0) throw Malformed();
  }

  void stream_string() {
    scan_string([this](std::string& piece) {
      sink_.text(piece);
      piece.clear();
    });
  }
  void read_string(std::string& out, std::size_t most) {
    out.clear();
    scan_string([&](std::string& piece) {
      out.append(piece, 0, most - std::min(most, out.size()));
      piece.clear();
    });
  }

  // `take` receives the decoded string in pieces and clears them.
  template <class Take> void scan_string(Take take) {
    expect('"');
    piece_.clear();
    for (;;) {
      if (piece_.size() >= kPieceBytes) take(piece_);
      if (peek() == kEnd) throw Malformed();
      const std::string_view window = input_.window().substr(0, kPieceBytes);
      const auto special =
          std::ranges::find_if(window, [](char c) { return c == '"' || c == '\\' || c == '\n'; });
      const auto plain = static_cast<std::size_t>(special - window.begin());
      piece_.append(window.substr(0, plain));
      input_.consume(plain);
      if (plain == window.size()) continue;
      if (window[plain] == '\n' && !many_lines_) throw Malformed();
      const int c = get();
      if (c == '"') return take(piece_);
      if (c == '\\') decode_escape();
      else piece_.push_back(static_cast<char>(c));
    }
  }

  void decode_escape() {
    const int c = peek();
    if (c == kEnd || (c == '\n' && !many_lines_)) throw Malformed();
    get();
    switch (c) {
      case 'b': return piece_.push_back('\b');
      case 'f': return piece_.push_back('\f');
      case 'n': return piece_.push_back('\n');
      case 'r': return piece_.push_back('\r');
      case 't': return piece_.push_back('\t');
      case 'u': return decode_code_unit();
      default: return piece_.push_back(static_cast<char>(c));  // \" \\ \/ and escapes that JSON does not have
    }
  }

  // After "\u". A high surrogate takes the low one that follows it; either alone is U+FFFD.
  void decode_code_unit() {
    std::uint32_t c = hex_digits();
    while (c >= 0xD800 && c < 0xDC00) {
      while (input_.window().size() < 2 && input_.fill()) {
      }
      if (!input_.window().starts_with("\\u")) break;
      input_.consume(2);
      const std::uint32_t low = hex_digits();
      if (low >= 0xDC00 && low < 0xE000) {
        append_utf8(piece_, 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00));
        return;
      }
      append_utf8(piece_, kReplacement);
      c = low;
    }
    append_utf8(piece_, c >= 0xD800 && c < 0xE000 ? kReplacement : c);
  }
  std::uint32_t hex_digits() {
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i) {
      const int c = peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) throw Malformed();
      get();
      value = value << 4 | static_cast<std::uint32_t>(digit);
    }
    return value;
  }

  // Just after the first '{': a pretty-printed object starts with a line end, and then so may all.
  void learn_layout() {
    known_layout_ = true;
    while (input_.fill()) {
    }
    for (const char c : input_.window()) {
      if (!is_blank_byte(c)) return;
      if (c == '\n') many_lines_ = true;
    }
  }

  // Just after a '{': takes the first of kUsualFields that this object has with text in it, as far as the
  // window shows.
  void choose_field() {
    while (input_.fill()) {
    }
    std::size_t best = kUsualFields.size();
    const std::string_view window = input_.window();
    std::string_view last_string;
    int depth = 1;
    for (std::size_t i = 0; i < window.size() && depth > 0; ++i) {
      const char c = window[i];
      if (c == '"') {
        const std::size_t start = ++i;
        while (i < window.size() && window[i] != '"') i += window[i] == '\\' ? 2 : 1;
        if (i >= window.size()) break;
        last_string = window.substr(start, i - start);
      } else if (c == ':' && depth == 1) {
        const std::size_t value = window.find_first_not_of(" \t\r\n", i + 1);
        if (value == window.npos || (window[value] != '"' && window[value] != '[')) continue;
        const std::string key = unescaped(last_string);
        best = std::min<std::size_t>(best, std::ranges::find(kUsualFields, key) - kUsualFields.begin());
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if (c == '}' || c == ']') {
        --depth;
      } else if (c == '\n' && !many_lines_) {
        break;
      }
    }
    if (best < kUsualFields.size()) field_ = kUsualFields[best];
  }

  // Only 段落 needs it: "\u6bb5\u843d".
  static std::string unescaped(std::string_view key) {
    std::string text;
    while (key.starts_with("\\u") && key.size() >= 6) {
      append_utf8(text,
                  static_cast<char32_t>(std::strtoul(std::string(key.substr(2, 4)).c_str(), nullptr, 16)));
      key.remove_prefix(6);
    }
    return text.append(key);
  }

  Input& input_;
  DocumentSink& sink_;
  std::string field_;
  bool known_layout_ = false, in_array_ = false;
  bool many_lines_ = false;  // objects may span lines
  bool at_line_start_ = true;
  Text state_ = Text::none;
  std::string title_, key_, piece_, skipped_;
};

}  // namespace

void read_json(Input& input, const std::string& text_field, DocumentSink& sink) {
  JsonReader(input, text_field, sink).read();
}

}  // namespace data
