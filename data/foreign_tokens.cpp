#include "data/foreign_tokens.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string_view>

#include "engine/error.h"

namespace data {
namespace {

using engine::Exit;
using engine::fail;
using engine::require;

constexpr std::size_t kIdsAtOnce = 1 << 18;
constexpr std::size_t kLlmcHeader = 256 * sizeof(std::int32_t);
constexpr std::uint64_t kMostLlmcTokens = std::numeric_limits<std::int32_t>::max();

struct LlmcKind {
  std::uint32_t magic, version;
  std::size_t width;
};
constexpr std::array kLlmcKinds{LlmcKind{20240520, 1, 2}, LlmcKind{20240801, 7, 4}};

const LlmcKind* llmc_kind(std::uint32_t magic) {
  const auto* kind = std::ranges::find(kLlmcKinds, magic, &LlmcKind::magic);
  return kind == kLlmcKinds.end() ? nullptr : kind;
}

std::uint32_t word(std::span<const std::byte> head, std::size_t index) {  // 0 behind the end
  std::uint32_t value = 0;
  if (head.size() / sizeof(value) > index)
    std::memcpy(&value, head.data() + index * sizeof(value), sizeof(value));
  return value;
}

// What a file surely is by its first bytes, and what to do about it; empty: nothing that is known here.
std::string_view known_kind(std::span<const std::byte> head) {
  const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
  const LlmcKind* kind = llmc_kind(word(head, 0));
  if (kind != nullptr && word(head, 1) == kind->version) return "a token file of llm.c; import it as llmc";
  if (llmc_kind(__builtin_bswap32(word(head, 0))) != nullptr)
    return "a big-endian token file of llm.c; write it on a little-endian machine";
  if (text.starts_with("BIN.TOK\n")) return "a token file of llmq; write its ids as bare 16-bit numbers";
  if (text.starts_with("\x93NUMPY"))
    return "a NumPy array; write its ids as bare 16-bit numbers with tofile()";
  if (text.size() >= 10 && text.substr(4, 6) == std::string_view("\0\0\0\0{\"", 6))
    return "a safetensors file; if it is a token file of this project, use it as it is";
  return {};
}

}  // namespace

ForeignTokens::Descriptor::~Descriptor() {
  if (number >= 0) ::close(number);
}

ForeignTokens::ForeignTokens(const std::filesystem::path& path, TokenFormat format, std::uint32_t vocab_size)
    : path_(path.string()), vocab_size_(vocab_size) {
  open();
  parse(format);
  buffer_.resize(kIdsAtOnce * width_);
}

void ForeignTokens::open() {
  file_.number = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO must not hang
  require(file_.number >= 0, Exit::data, "{}: cannot be opened: {}; give an existing file", path_,
          std::strerror(errno));
  struct stat status {};
  const bool known = ::fstat(file_.number, &status) == 0;
  require(!known || !S_ISDIR(status.st_mode), Exit::data, "{}: is a folder, a file is expected", path_);
  require(known && S_ISREG(status.st_mode), Exit::data, "{}: is not a regular file; copy it to one first",
          path_);
  require(status.st_size > 0, Exit::data, "{}: is empty, expected token ids", path_);
  bytes_ = static_cast<std::uint64_t>(status.st_size);
}

void ForeignTokens::read(std::uint64_t offset, std::span<std::byte> into) const {
  while (!into.empty()) {
    const ssize_t n = ::pread(file_.number, into.data(), into.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(Exit::io, "{}: reading at byte {} failed: {}", path_, offset, std::strerror(errno));
    require(n > 0, Exit::data, "{}: ends at byte {}, it had {} when it was opened; do not write to it now",
            path_, offset, bytes_);
    offset += static_cast<std::uint64_t>(n);
    into = into.subspan(static_cast<std::size_t>(n));
  }
}

void ForeignTokens::parse(TokenFormat format) {
  std::array<std::byte, 12> start{};
  const auto head = std::span(start).first(std::min<std::uint64_t>(start.size(), bytes_));
  read(0, head);
  const std::string_view known = known_kind(head);
  if (format == TokenFormat::nanogpt) {
    require(known.empty(), Exit::data, "{}: is {}", path_, known);
    require(bytes_ % 2 == 0, Exit::data,
            "{}: {} bytes, expected ids of 2 bytes each; it is truncated or foreign", path_, bytes_);
    size_ = bytes_ / 2;
    return;
  }
  const std::uint32_t magic = word(head, 0), version = word(head, 1), count = word(head, 2);
  const LlmcKind* kind = llmc_kind(magic);
  require(kind != nullptr || known.empty(), Exit::data, "{}: is {}", path_, known);
  require(kind != nullptr, Exit::data,
          "{}: magic number {} at byte 0, expected {} (16-bit ids) or {} (32-bit ids) of llm.c's token files",
          path_, magic, kLlmcKinds[0].magic, kLlmcKinds[1].magic);
  require(version == kind->version, Exit::data,
          "{}: version {} at byte 4, expected {} after magic number {}; it was made by another program",
          path_, version, kind->version, magic);
  require(bytes_ >= kLlmcHeader, Exit::data, "{}: {} bytes, expected a header of {}; the file is truncated",
          path_, bytes_, kLlmcHeader);
  header_ = kLlmcHeader;
  width_ = kind->width;
  size_ = (bytes_ - header_) / width_;
  // The count has 32 bits, of which llm.c itself reads 31; of larger files it has the lower 32.
  require((bytes_ - header_) % width_ == 0 && static_cast<std::uint32_t>(size_) == count &&
              (size_ == count || size_ > kMostLlmcTokens),
          Exit::data, "{}: {} tokens of {} bytes in its header, but {} bytes behind it; the file is {}",
          path_, count, width_, bytes_ - header_, size_ < count ? "truncated" : "damaged");
  require(size_ > 0, Exit::data, "{}: has a header and no tokens", path_);
}

std::span<const std::uint32_t> ForeignTokens::next() {
  done_ += ids_.size();
  const std::size_t count = std::min<std::uint64_t>(kIdsAtOnce, size_ - done_);
  ids_.resize(count);
  const auto bytes = std::span(buffer_).first(count * width_);
  read(header_ + done_ * width_, bytes);
  if (width_ == sizeof(std::uint32_t)) std::memcpy(ids_.data(), bytes.data(), bytes.size());
  else std::copy_n(reinterpret_cast<const std::uint16_t*>(bytes.data()), count, ids_.begin());
  check_ids();
  return ids_;
}

void ForeignTokens::check_ids() const {
  std::uint32_t greatest = 0;  // one check for all, which the compiler can vectorise
  for (const std::uint32_t id : ids_) greatest = std::max(greatest, id);
  if (greatest < vocab_size_) return;
  const auto bad = std::ranges::find_if(ids_, [&](std::uint32_t id) { return id >= vocab_size_; });
  const std::uint64_t index = done_ + static_cast<std::uint64_t>(bad - ids_.begin());
  fail(Exit::data,
       "{}: id {} of token {} at byte {}, expected ids below {}, the size of the vocabulary; give "
       "the one that the file was made with",
       path_, *bad, index, header_ + index * width_, vocab_size_);
}

std::string header_of(TokenFormat format, std::size_t width, std::uint64_t count) {
  if (format == TokenFormat::nanogpt) {
    require(width == 2, Exit::usage,
            "nanogpt: its ids have 16 bits, too few for this vocabulary; export llmc or npy");
    return {};
  }
  if (format == TokenFormat::llmc) {
    require(count <= kMostLlmcTokens, Exit::usage,
            "llmc: {} tokens, but llm.c reads at most {} of a file; export npy, or nanogpt for 16-bit ids",
            count, kMostLlmcTokens);
    const LlmcKind& kind = width == 2 ? kLlmcKinds[0] : kLlmcKinds[1];
    const std::array words{kind.magic, kind.version, static_cast<std::uint32_t>(count)};
    std::string header(kLlmcHeader, '\0');
    std::memcpy(header.data(), words.data(), sizeof(words));
    return header;
  }
  // NumPy's format 1.0: the dictionary is padded so that the data start at a multiple of 64.
  constexpr std::size_t kPrefix = 10, kAlignment = 64;
  std::string dictionary =
      fmt::format("{{'descr': '<u{}', 'fortran_order': False, 'shape': ({},), }}", width, count);
  dictionary.resize((kPrefix + dictionary.size()) / kAlignment * kAlignment + kAlignment - kPrefix - 1, ' ');
  dictionary += '\n';
  const std::uint16_t length = static_cast<std::uint16_t>(dictionary.size());
  std::string header("\x93NUMPY\x01\0", 8);
  header.append(reinterpret_cast<const char*>(&length), sizeof(length));
  return header + dictionary;
}

}  // namespace data
