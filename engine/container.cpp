#include "engine/container.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <optional>
#include <set>

#include "engine/container_header.h"
#include "engine/durable_file.h"

namespace engine {
namespace {

constexpr std::uint64_t kMaxHeader = 100'000'000;  // the limit of the safetensors format
constexpr std::string_view kCrcKey = "header_crc32";

struct TypeInfo {
  FileType type;
  std::string_view name;
  std::size_t size;
};
constexpr std::array kTypes{TypeInfo{FileType::boolean, "BOOL", 1}, TypeInfo{FileType::u8, "U8", 1},
                            TypeInfo{FileType::i32, "I32", 4},      TypeInfo{FileType::i64, "I64", 8},
                            TypeInfo{FileType::u16, "U16", 2},      TypeInfo{FileType::u32, "U32", 4},
                            TypeInfo{FileType::u64, "U64", 8},      TypeInfo{FileType::f32, "F32", 4},
                            TypeInfo{FileType::bf16, "BF16", 2},    TypeInfo{FileType::f64, "F64", 8}};

std::optional<FileType> type_called(std::string_view name) {
  for (const auto& info : kTypes)
    if (info.name == name) return info.type;
  return std::nullopt;
}

// shape x size, or nothing when it does not fit 63 bits.
std::optional<std::uint64_t> byte_size(std::span<const std::uint64_t> shape, FileType type) {
  std::uint64_t bytes = size_of(type);
  for (auto d : shape) {
    if (__builtin_mul_overflow(bytes, d, &bytes)) return std::nullopt;
  }
  if (bytes > std::uint64_t(INT64_MAX)) return std::nullopt;
  return bytes;
}

std::span<const std::byte> as_bytes(std::string_view s) {
  return std::as_bytes(std::span(s.data(), s.size()));
}

}  // namespace

std::size_t size_of(FileType type) noexcept { return kTypes[std::size_t(type)].size; }
std::string_view name_of(FileType type) noexcept { return kTypes[std::size_t(type)].name; }

std::uint64_t ContainerEntry::numel() const noexcept { return bytes.size() / size_of(type); }

std::uint32_t crc32_of(std::span<const std::byte> bytes, std::uint32_t before) {
  return std::uint32_t(crc32_z(before, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}
std::string crc32_hex(std::span<const std::byte> bytes) { return fmt::format("{:08x}", crc32_of(bytes)); }

bool begins_as_container(const std::filesystem::path& path) {
  std::error_code absent;
  if (!std::filesystem::is_regular_file(path, absent)) return false;
  std::array<char, 8> start{};
  std::ifstream file(path, std::ios::binary);
  file.read(start.data(), start.size());
  return file.gcount() == start.size() && std::memchr(start.data(), 0, start.size()) != nullptr;
}

ContainerReader::ContainerReader(std::filesystem::path path, Exit bad_file)
    : path_(path.string()), bad_file_(bad_file) {
  const int file = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO must not hang
  if (file < 0)
    fail(bad_file_, "{}: cannot be opened: {}; give an existing file", path_, std::strerror(errno));
  struct stat status {};
  const bool known = fstat(file, &status) == 0;
  void* at = nullptr;
  const bool regular = known && S_ISREG(status.st_mode);
  if (regular && status.st_size > 0)
    at = mmap(nullptr, std::size_t(status.st_size), PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (known && S_ISDIR(status.st_mode)) fail(bad_file_, "{}: is a folder, a file is expected", path_);
  if (!regular) fail(bad_file_, "{}: is not a regular file; copy it to one first", path_);
  if (status.st_size == 0)
    fail(bad_file_, "{}: is empty; it was not written by this project or the write was cut", path_);
  if (at == MAP_FAILED) fail(Exit::io, "{}: cannot be mapped: {}", path_, std::strerror(errno));
  file_ = {static_cast<const std::byte*>(at), std::size_t(status.st_size)};
  mapped_ = true;
  try {
    parse();
  } catch (...) {  // a constructor that throws runs no destructor
    munmap(const_cast<std::byte*>(file_.data()), file_.size());
    throw;
  }
}

ContainerReader::ContainerReader(std::span<const std::byte> bytes, std::string name, Exit bad_file)
    : path_(std::move(name)), bad_file_(bad_file), file_(bytes) {
  parse();
}

ContainerReader::~ContainerReader() {
  if (mapped_) munmap(const_cast<std::byte*>(file_.data()), file_.size());
}

void ContainerReader::parse() {
  require(file_.size() >= 8, bad_file_,
          "{}: has {} bytes, a safetensors header alone needs 8; it is truncated or foreign", path_,
          file_.size());
  std::uint64_t length;
  std::memcpy(&length, file_.data(), 8);
  require(length >= 2 && length <= kMaxHeader && char(file_.size() > 8 ? file_[8] : std::byte{}) == '{',
          bad_file_,
          "{}: is no safetensors file (byte 8 is not '{{' or the header length {} is absurd); expected a "
          "file made by "
          "this project's tools",
          path_, length);
  require(length <= file_.size() - 8, bad_file_,
          "{}: is truncated: the header ends at byte {}, the file at {}; make or copy it again", path_,
          length + 8, file_.size());
  const std::string_view text(reinterpret_cast<const char*>(file_.data()) + 8, length);
  ContainerHeader header;
  if (const std::string error = parse_container_header(text, header); !error.empty())
    fail(bad_file_, "{}: damaged header: {}; make or copy the file again", path_, error);
  metadata_ = std::move(header.metadata);

  const auto data = file_.subspan(8 + length);
  for (auto& tensor : header.tensors) {
    const auto type = type_called(tensor.dtype);
    require(type.has_value(), bad_file_, "{}: tensor {} has the unknown dtype {}", path_, tensor.name,
            tensor.dtype);
    const auto bytes = byte_size(tensor.shape, *type);
    require(bytes && tensor.begin <= tensor.end && tensor.end - tensor.begin == *bytes, bad_file_,
            "{}: tensor {} spans bytes {}..{} but its shape needs {}", path_, tensor.name, tensor.begin,
            tensor.end, bytes ? fmt::format("{} bytes", *bytes) : "more than any file");
    require(tensor.end <= data.size(), bad_file_,
            "{}: is truncated at byte {}: tensor {} ends at byte {}; make or copy it again", path_,
            file_.size(), tensor.name, 8 + length + tensor.end);
    require(
        *bytes == 0 || (8 + length + tensor.begin) % size_of(*type) == 0, bad_file_,
        "{}: the data of tensor {} start at byte {}, expected a multiple of {}; save the file again with a "
        "newer safetensors",
        path_, tensor.name, 8 + length + tensor.begin, size_of(*type));
    entries_.push_back({tensor.name, *type, std::move(tensor.shape), data.subspan(tensor.begin, *bytes)});
  }
  std::stable_sort(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  });
  const std::byte* next = data.data();
  for (const auto& entry : entries_) {
    require(entry.bytes.data() == next, bad_file_,
            "{}: the data of tensor {} start at byte {}, expected byte {} (a hole or an overlap)", path_,
            entry.name, entry.bytes.data() - file_.data(), next - file_.data());
    next = entry.bytes.data() + entry.bytes.size();
  }
  require(next == data.data() + data.size(), bad_file_,
          "{}: has {} bytes after its last tensor, at byte {}; expected none", path_,
          data.data() + data.size() - next, next - file_.data());

  const auto format = metadata_.find("format");
  if (format == metadata_.end() || !format->second.starts_with("nsa-")) return;
  const auto crc = metadata_.find(std::string(kCrcKey));
  const auto key = text.find(fmt::format("\"{}\":\"", kCrcKey));
  require(crc != metadata_.end() && crc->second.size() == 8 && key != text.npos, bad_file_,
          "{}: lacks its {}; the header is damaged", path_, kCrcKey);
  std::string zeroed(text);
  zeroed.replace(key + kCrcKey.size() + 4, 8, "00000000");
  require(crc32_hex(as_bytes(zeroed)) == crc->second, bad_file_,
          "{}: the header's checksum is {}, expected {}; it is damaged, make or copy it again", path_,
          crc32_hex(as_bytes(zeroed)), crc->second);
}

const std::string& ContainerReader::meta(const std::string& key) const {
  const auto found = metadata_.find(key);
  require(found != metadata_.end(), bad_file_,
          "{}: lacks the metadata '{}'; it was not written by this project", path_, key);
  return found->second;
}

void ContainerReader::require_format(std::string_view name) const {
  const auto found = metadata_.find("format");
  const std::string_view format =
      found == metadata_.end() ? std::string_view{} : std::string_view(found->second);
  if (format == fmt::format("{}/1", name)) return;
  int version = 0;
  if (format.starts_with(name) && format.size() > name.size() + 1 && format[name.size()] == '/') {
    const auto digits = format.substr(name.size() + 1);
    const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), version);
    if (error == std::errc{} && stop == digits.data() + digits.size() && version > 1)
      fail(bad_file_, "{}: format {} was made by a newer program, this one reads {}/1; update it", path_,
           format, name);
  }
  fail(bad_file_, "{}: is {}, expected {}/1", path_,
       format.empty() ? "no file of this project" : fmt::format("of format '{}'", format), name);
}

const ContainerEntry* ContainerReader::find(std::string_view name) const noexcept {
  for (const auto& entry : entries_)
    if (entry.name == name) return &entry;
  return nullptr;
}

void ContainerReader::release(std::span<const std::byte> part) const noexcept {
  if (!mapped_) return;
  const auto page = std::uintptr_t(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(part.data()) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(part.data() + part.size());
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

const ContainerEntry& ContainerReader::at(std::string_view name, FileType type) const {
  const auto* entry = find(name);
  require(entry, bad_file_, "{}: lacks the tensor {}; it was not written by this project", path_, name);
  require(entry->type == type, bad_file_, "{}: tensor {} is {}, expected {}", path_, name,
          name_of(entry->type), name_of(type));
  return *entry;
}

void ContainerWriter::set(std::string key, std::string value) {
  metadata_[std::move(key)] = std::move(value);
}

void ContainerWriter::set_last(std::string key, std::string longest, std::function<std::string()> value) {
  last_[key] = std::move(value);
  metadata_[std::move(key)] = std::move(longest);
}

void ContainerWriter::add(std::string name, FileType type, std::vector<std::uint64_t> shape,
                          std::span<const std::byte> bytes) {
  add(std::move(name), type, std::move(shape), [bytes](const Sink& sink) { sink(bytes); });
}

void ContainerWriter::add(std::string name, FileType type, std::vector<std::uint64_t> shape,
                          Producer produce) {
  const auto bytes = byte_size(shape, type);
  if (!bytes) throw std::logic_error("container: a tensor larger than any file");
  items_.push_back({std::move(name), type, std::move(shape), *bytes, std::move(produce)});
}

std::string ContainerWriter::header(const std::vector<Item>& ordered,
                                    const std::map<std::string, std::string>& metadata) const {
  ContainerHeader header;
  header.metadata = metadata;
  std::uint64_t at = 0;
  for (const auto& item : ordered) {
    header.tensors.push_back({item.name, std::string(name_of(item.type)), item.shape, at, at + item.bytes});
    at += item.bytes;
  }
  if (!metadata.contains("format")) return print_container_header(header);
  header.metadata[std::string(kCrcKey)] = "00000000";
  std::string text = print_container_header(header);
  const auto crc = crc32_hex(as_bytes(text));
  text.replace(text.find(fmt::format("\"{}\":\"", kCrcKey)) + kCrcKey.size() + 4, 8, crc);
  return text;
}

void ContainerWriter::save(const std::filesystem::path& path) const {
  std::vector<Item> ordered = items_;
  std::sort(ordered.begin(), ordered.end(), [](const Item& a, const Item& b) {
    if (size_of(a.type) != size_of(b.type)) return size_of(a.type) > size_of(b.type);
    return a.name < b.name;
  });
  const auto start = [&](const std::map<std::string, std::string>& metadata) {
    const std::string text = header(ordered, metadata);
    const std::uint64_t length = text.size();
    return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
  };
  const std::string first = start(metadata_);
  DurableFile file(path);
  file.write(as_bytes(first));
  for (const auto& item : ordered) {
    std::uint64_t written = 0;
    item.produce([&](std::span<const std::byte> bytes) {
      written += bytes.size();
      if (written > item.bytes) throw std::logic_error("container: more data than declared for " + item.name);
      file.write(bytes);
    });
    if (written != item.bytes) throw std::logic_error("container: less data than declared for " + item.name);
  }
  if (!last_.empty()) {
    auto metadata = metadata_;
    for (const auto& [key, value] : last_) {
      std::string known = value();
      if (known.size() > metadata[key].size())
        throw std::logic_error("container: the value of " + key + " is longer than its longest");
      known.resize(metadata[key].size(), ' ');
      metadata[key] = std::move(known);
    }
    const std::string known = start(metadata);
    if (known.size() != first.size())
      throw std::logic_error("container: a last value changed the header's size");
    file.write_start(as_bytes(known));
  }
  file.commit();
}

}  // namespace engine
