#include "data/input.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "data/utf8.h"
#include "engine/durable_file.h"
#include "engine/error.h"

namespace data {
namespace {

namespace fs = std::filesystem;
using engine::Exit;
using engine::fail;
using engine::require;
using namespace std::string_view_literals;

constexpr std::size_t kSniffBytes = 64 << 10;
constexpr std::size_t kMagicBytes = 10;  // that tell how an input is packed
constexpr std::string_view kGzipMagic = "\x1F\x8B";
constexpr std::string_view kZstdMagic = "\x28\xB5\x2F\xFD", kXzMagic = "\xFD\x37zXZ\0"sv;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

std::string_view without_blanks(std::string_view text) {
  text.remove_prefix(static_cast<std::size_t>(std::ranges::find_if_not(text, is_blank) - text.begin()));
  return text;
}

struct Foreign {
  std::string_view magic, what, instead;
};
// {0} in `instead` is the name of the input.
constexpr Foreign kForeign[] = {
    {"BZh"sv, "bzip2 data inside other packed data", "unpack it once more"},
    {kZstdMagic, "Zstandard data inside other packed data", "unpack it once more"},
    {kXzMagic, "xz data inside other packed data", "unpack it once more"},
    {"PK\x03\x04"sv, "a zip archive", "unzip -p {0} | prepare -"},
    {"7z\xBC\xAF\x27\x1C"sv, "a 7z archive", "7z x -so {0} | prepare -"},
    {"PAR1"sv, "a parquet file", "write it as JSON lines first"},
    {"%PDF-"sv, "a PDF file", "pdftotext {0} - | prepare -"},
    {"\x89PNG\r\n\x1A\n"sv, "a PNG image", "a file of text"},
    {"\x7F\x45LF"sv, "a program", "a file of text"},
    {kGzipMagic, "gzip data inside other packed data", "unpack it once more"},
    {"\xFF\xFE"sv, "UTF-16 text", "iconv -f UTF-16 -t UTF-8 {0} | prepare -"},
    {"\xFE\xFF"sv, "UTF-16 text", "iconv -f UTF-16 -t UTF-8 {0} | prepare -"},
};

// "BZh" alone could begin a text: a level and a block or stream mark follow.
bool is_bzip2(std::string_view head) {
  return head.size() >= kMagicBytes && head.starts_with("BZh") && head[3] >= '1' && head[3] <= '9' &&
         (head.substr(4, 6) == "1AY&SY" || head.substr(4, 6) == "\x17\x72\x45\x38\x50\x90");
}

void refuse_foreign(std::string_view head, const std::string& name) {
  for (const Foreign& foreign : kForeign) {
    if (!head.starts_with(foreign.magic) || (foreign.magic == "BZh" && !is_bzip2(head))) continue;
    fail(Exit::data, "{}: holds {}, expected text, JSON or a dump, plain or packed; try: {}", name,
         foreign.what, fmt::format(fmt::runtime(foreign.instead), name));
  }
  require(!(head.size() > 16 && head[8] == '{' && head.substr(0, kSniffBytes).find("\"nsa-") != head.npos),
          Exit::data, "{}: was made by this project and is no text; give the text that it was made from",
          name);
  require(!(head.size() > 8 && head[8] == '{' && head.substr(0, 8).find('\0') != head.npos), Exit::data,
          "{}: holds a safetensors file, expected text, JSON or a dump, plain or packed", name);
}

void refuse_other_encodings(std::string_view head, const std::string& name) {
  constexpr std::uint64_t kFew = 64;  // a short text may well be damaged
  const auto zeros = static_cast<std::uint64_t>(std::ranges::count(head, '\0'));
  require(zeros <= kFew || zeros * 10 <= head.size(), Exit::data,
          "{}: {} of the first {} bytes are zero, expected UTF-8 text; if it is UTF-16: iconv -f UTF-16LE -t "
          "UTF-8",
          name, zeros, head.size());
  std::uint64_t ill_formed = 0;
  repair_utf8(head, &ill_formed);
  require(ill_formed <= kFew || ill_formed * 10 <= head.size(), Exit::data,
          "{}: {} ill-formed places in the first {} bytes, expected UTF-8; if it is GB18030: iconv -f "
          "GB18030 -t UTF-8",
          name, ill_formed, head.size());
}

InputFormat format_of(std::string_view head) {
  const auto starts = [&](std::string_view tag) { return head.starts_with(tag); };
  if (starts("<?xml")) {
    const std::size_t end = head.find("?>");
    if (end != head.npos) head = without_blanks(head.substr(end + 2));
  }
  if (starts("<feed") || starts("<doc>")) return InputFormat::abstract_xml;
  if (starts("<mediawiki")) return InputFormat::pages_xml;
  if (starts("<doc ")) return InputFormat::wikiextractor;
  if (starts("{")) {
    const auto next = without_blanks(head.substr(1));
    if (next.starts_with('"') || next.starts_with('}')) return InputFormat::json;
  }
  if (starts("[")) {
    const auto next = without_blanks(head.substr(1));
    if (next.starts_with('{') || next.starts_with(']')) return InputFormat::json;
  }
  return InputFormat::plain_text;
}

}  // namespace

std::vector<std::string> expand_inputs(const std::vector<std::string>& arguments) {
  std::vector<std::string> files;
  for (const std::string& argument : arguments) {
    std::error_code error;
    if (argument == "-" || !fs::is_directory(argument, error)) {
      require(argument == "-" || fs::exists(argument, error), Exit::data,
              "{}: no such file or folder; give an existing one, or - for standard input", argument);
      require(argument != "-" || std::ranges::find(files, "-") == files.end(), Exit::usage,
              "-: given twice, standard input can be read once");
      files.push_back(argument);
      continue;
    }
    const std::size_t first = files.size();
    fs::recursive_directory_iterator entries(argument, error);
    for (; !error && entries != fs::recursive_directory_iterator(); entries.increment(error)) {
      std::error_code gone;  // a link to nothing is no file
      if (entries->is_regular_file(gone) && entries->file_size(gone) > 0 && !gone)
        files.push_back(entries->path().string());
    }
    require(!error, Exit::data, "{}: the folder cannot be read: {}", argument, error.message());
    require(files.size() > first, Exit::data,
            "{}: the folder holds no files with content; give one that does", argument);
    std::sort(files.begin() + static_cast<std::ptrdiff_t>(first), files.end());
  }
  return files;
}

void check_output(const fs::path& output, const std::vector<std::string>& inputs) {
  require(output != "-", Exit::usage,
          "-o -: expected the name of a file; only prepare --text writes to standard output");
  std::error_code error;
  for (const std::string& input : inputs)
    require(input == "-" || !fs::equivalent(input, output, error), Exit::usage,
            "-o {}: is also an input; name another output", output.string());
  engine::DurableFile probe(output);
}

bool is_gzip_file(const std::string& file) {
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return false;  // a pipe would have to wait for its writer
  std::array<char, kGzipMagic.size()> head{};
  return std::ifstream(file, std::ios::binary).read(head.data(), head.size()) &&
         std::string_view(head.data(), head.size()) == kGzipMagic;
}

Input::Opened Input::open(const std::string& name, const InputOptions& options) {
  Opened opened;
  if (name == "-" && options.standard_input != nullptr) {
    opened.source = open_spool(*options.standard_input);
    return opened;
  }
  opened.source = open_file(name, [closed = opened.closed, poll = options.poll] {
    if (*closed) throw std::runtime_error("nobody reads on");  // nobody sees it either
    if (poll) poll();
  });
  if (name == "-" && options.copy_of_standard_input != nullptr)
    opened.source = copying(std::move(opened.source), *options.copy_of_standard_input);
  return opened;
}

Input::Input(const std::string& name, const InputOptions& options, std::uint64_t limit,
             std::function<void(std::string)> warn)
    : Input(open(name, options), name == "-" ? "standard input" : name, options, limit, std::move(warn)) {}

Input::Input(std::unique_ptr<ByteSource> source, std::string name, const InputOptions& options,
             std::uint64_t limit, std::function<void(std::string)> warn)
    : Input(Opened{.source = std::move(source)}, std::move(name), options, limit, std::move(warn)) {}

Input::Input(Opened opened, std::string name, const InputOptions& options, std::uint64_t limit,
             std::function<void(std::string)> warn)
    : name_(std::move(name)),
      source_(std::move(opened.source)),
      limit_(limit),
      buffer_(std::max<std::size_t>(options.window, 64)) {
  std::vector<std::byte> magic(kMagicBytes);
  std::size_t have = 0;
  while (have < magic.size()) {
    const std::size_t count = source_->read(std::span(magic).subspan(have));
    if (count == 0) break;
    have += count;
  }
  require(have > 0, Exit::data, "{}: is empty, expected text; give a file that holds some", name_);
  magic.resize(have);
  const std::string head(reinterpret_cast<const char*>(magic.data()), have);
  source_ = prepend(std::move(magic), std::move(source_));
  if (is_bzip2(head)) {
    source_ = bunzip2(std::move(source_), name_, options.threads, std::move(warn));
  } else if (head.starts_with(kZstdMagic)) {
    source_ = read_ahead(unzstd(std::move(source_), name_), opened.closed, nullptr);
  } else if (head.starts_with(kXzMagic)) {
    source_ = read_ahead(unxz(std::move(source_), name_), opened.closed, nullptr);
  } else if (head.starts_with(kGzipMagic)) {
    const auto warnings = std::make_shared<std::vector<std::string>>();  // of the thread, until the end
    source_ = gunzip(std::move(source_), name_,
                     [warnings](std::string line) { warnings->push_back(std::move(line)); });
    source_ = read_ahead(std::move(source_), opened.closed, [warnings, warn] {
      for (const std::string& line : *warnings) warn(line);
    });
  }
  sniff(options.raw);
}

void Input::sniff(bool raw) {
  while (end_ - begin_ < std::min(kSniffBytes, buffer_.size()) && fill()) {
  }
  refuse_foreign(window(), name_);
  refuse_other_encodings(window().substr(0, kSniffBytes), name_);
  if (raw) return;
  if (window().starts_with(kByteOrderMark)) consume(kByteOrderMark.size());
  format_ = format_of(without_blanks(window()));
}

bool Input::fill() {
  if (ended_) return false;
  if (begin_ > 0 && end_ == buffer_.size()) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  if (end_ == buffer_.size()) return false;
  // At the limit one more byte is read, to know whether there was more.
  std::size_t room = buffer_.size() - end_;
  if (limit_ - read_ < room) room = static_cast<std::size_t>(limit_ - read_) + 1;
  std::size_t count = source_->read(std::as_writable_bytes(std::span(buffer_).subspan(end_, room)));
  if (count == 0) ended_ = true;
  if (count > limit_ - read_) {
    count = static_cast<std::size_t>(limit_ - read_);
    ended_ = limited_ = true;
  }
  end_ += count;
  read_ += count;
  return count > 0;
}

}  // namespace data
