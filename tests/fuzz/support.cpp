#include "tests/fuzz/support.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "engine/container.h"

namespace tests::fuzz {
namespace {

constexpr std::string_view kCrcField = "\"header_crc32\":\"";

void repair_crc(std::string& file) {
  std::uint64_t length = 0;
  if (file.size() < 8) return;
  std::memcpy(&length, file.data(), 8);
  if (length > file.size() - 8) return;
  std::string header = file.substr(8, length);
  const std::size_t field = header.find(kCrcField);
  if (field == header.npos || header.size() - field < kCrcField.size() + 8) return;
  const std::size_t digits = field + kCrcField.size();
  header.replace(digits, 8, "00000000");
  file.replace(8 + digits, 8, engine::crc32_hex(bytes_of(header)));
}

class PiecewiseSource final : public data::ByteSource {
 public:
  PiecewiseSource(Bytes bytes, std::size_t piece) : bytes_(bytes), piece_(piece) {}
  std::size_t read(std::span<std::byte> into) override {
    const Bytes part = bytes_.first(std::min({into.size(), piece_, bytes_.size()}));
    std::copy(part.begin(), part.end(), into.begin());
    bytes_ = bytes_.subspan(part.size());
    return part.size();
  }

 private:
  Bytes bytes_;
  std::size_t piece_;
};

}  // namespace

void hold_one_line(std::string_view message) {
  hold(!message.empty() && message.find('\n') == message.npos, "a message of one line");
}

std::vector<std::byte> container_of(Bytes bytes) {
  const Chosen chosen(bytes);
  std::string file(text_of(chosen.rest));
  if (chosen.choice == 'h') {
    const std::size_t end = std::min(file.find('\0'), file.size());
    std::string header = file.substr(0, end);
    header.append((64 - (header.size() + 8) % 64) % 64, ' ');
    const std::string data = file.substr(std::min(end + 1, file.size()));
    const std::uint64_t length = header.size();
    file.assign(reinterpret_cast<const char*>(&length), sizeof(length));
    file += header + data;
  }
  if (chosen.choice == 'h' || chosen.choice == 'c') repair_crc(file);
  const Bytes all = bytes_of(file);
  return {all.begin(), all.end()};
}

std::string read_from(data::ByteSource& source, std::size_t room) {
  std::string text;
  std::vector<std::byte> buffer(room);
  while (text.size() < kMostBytes) {
    const std::size_t count = source.read(buffer);
    if (count == 0) break;
    text += text_of(std::span(buffer).first(count));
  }
  text.resize(std::min(text.size(), kMostBytes));
  return text;
}

std::unique_ptr<data::ByteSource> source_of(Bytes bytes, std::size_t piece) {
  return std::make_unique<PiecewiseSource>(bytes, piece);
}

NamelessFile::NamelessFile(Bytes bytes) : file_(::memfd_create("fuzz", MFD_CLOEXEC)) {
  hold(file_ >= 0 && ::write(file_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()),
       "a file in memory");
}
NamelessFile::~NamelessFile() { ::close(file_); }
std::string NamelessFile::path() const { return "/proc/self/fd/" + std::to_string(file_); }

void Events::begin() {
  hold(!open_, "begin() where no document is open");
  open_ = true;
  text_.clear();
}
void Events::text(std::string_view piece) {
  hold(open_, "text() of an open document");
  text_ += piece;
}
void Events::end(std::string_view title) {
  hold(open_, "end() of an open document");
  open_ = false;
  all_ += "document " + std::string(title) + "\n" + text_ + "\n";
}
void Events::abandon() {
  hold(open_, "abandon() of an open document");
  open_ = false;
  all_ += "abandoned\n";
}
void Events::skip(std::string_view reason) { all_ += "skipped " + std::string(reason) + "\n"; }
void Events::warn(std::string line) {
  hold_one_line(line);
  all_ += "warning " + line + "\n";
}
const std::string& Events::all() const {
  hold(!open_, "every document is ended or abandoned");
  return all_;
}

std::string events_of(Bytes bytes, std::size_t window, std::size_t piece, std::uint64_t limit, Reader read,
                      const data::ReaderOptions& options) {
  Events events;
  data::InputOptions input_options;
  input_options.window = window;
  data::Input input(source_of(bytes, piece), "INPUT", input_options, limit,
                    [&](std::string line) { events.warn(std::move(line)); });
  read(input, options, events);
  hold(input.window().empty() && input.at_end(), "the input is read to its end");
  hold(input.bytes_read() <= limit, "no byte beyond the limit");
  return events.all();
}

bool same_for_every_window(Bytes bytes, std::uint8_t choice, Reader read,
                           const data::ReaderOptions& options) {
  constexpr std::size_t kLookAhead = 300;  // more than any reader needs to see at once, but for blanks
  const std::size_t window = kLookAhead + choice % 64;
  const std::uint64_t limit = choice >= 192 ? bytes.size() * (choice - 191) / 66 : ~std::uint64_t{0};
  std::string wide, narrow;
  if (!taken([&] { wide = events_of(bytes, 1 << 16, 1 << 16, limit, read, options); })) return false;
  std::size_t blanks = 0;
  for (const std::byte byte : bytes) {
    blanks = data::is_blank_byte(static_cast<char>(byte)) ? blanks + 1 : 0;
    if (blanks >= window / 2) return true;  // a line, or a layout, that the narrow window cannot show
  }
  if (taken([&] { narrow = events_of(bytes, window, 1 + choice % 7, limit, read, options); }))
    hold(wide == narrow, "the same documents for every window");
  return true;
}

}  // namespace tests::fuzz
