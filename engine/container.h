// The one file layer: safetensors (8-byte header length, JSON header, raw tensors), read with every size
// checked and written atomically. Token files, tokenizer files and checkpoints are all containers
// (docs/reference.md, "Files").
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/error.h"

namespace engine {

enum class FileType : std::uint8_t { boolean, u8, i32, i64, u16, u32, u64, f32, bf16, f64 };
std::size_t size_of(FileType) noexcept;
std::string_view name_of(FileType) noexcept;  // "F32", ...

struct ContainerEntry {
  std::string name;
  FileType type{};
  std::vector<std::uint64_t> shape;
  std::span<const std::byte> bytes;  // in the mapped file
  std::uint64_t numel() const noexcept;
  // The data as T, which must be what `type` says: ContainerReader::at() checks it. They are aligned for it.
  template <class T> std::span<const T> as() const {
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
};

// Hex of the CRC-32 (zlib's) of some bytes, 8 digits.
std::string crc32_hex(std::span<const std::byte> bytes);
std::uint32_t crc32_of(std::span<const std::byte> bytes, std::uint32_t before = 0);

// Whether a file begins as a container does, with its header's length: that is far below 2^32 in 8 bytes, so
// some are NUL, which no text holds. A pipe does not, and nothing is read of it.
bool begins_as_container(const std::filesystem::path&);

class ContainerReader {
 public:
  // Maps the file and checks the whole header: length, JSON without duplicate names, known types, shape times
  // size equal to the span, spans aligned to the element size, neither overlapping nor leaving holes nor
  // passing the end, header_crc32 where `format` starts with "nsa-". Throws Error(bad_file) naming the file,
  // the offset and what was expected.
  explicit ContainerReader(std::filesystem::path, Exit bad_file = Exit::data);
  // The same over bytes in memory, at an address that is a multiple of 8; `name` stands for the path in
  // messages.
  ContainerReader(std::span<const std::byte> bytes, std::string name, Exit bad_file = Exit::data);
  ContainerReader(const ContainerReader&) = delete;
  ContainerReader& operator=(const ContainerReader&) = delete;
  ~ContainerReader();

  const std::string& path() const noexcept { return path_; }
  Exit bad_file() const noexcept { return bad_file_; }
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  const std::string& meta(const std::string& key) const;  // throws Error(bad_file) if absent
  // Throws unless `format` is NAME/1; a higher number is "made by a newer program".
  void require_format(std::string_view name) const;
  std::span<const ContainerEntry> entries() const noexcept { return entries_; }  // in file order
  const ContainerEntry* find(std::string_view name) const noexcept;
  // Gives up the resident pages of a part of the mapped file. They are clean and stay in the system's cache:
  // it costs a page fault at the next use.
  void release(std::span<const std::byte> part) const noexcept;
  const ContainerEntry& at(std::string_view name,
                           FileType type) const;  // throws if absent or of another type

 private:
  void parse();

  std::string path_;
  Exit bad_file_;
  std::span<const std::byte> file_;
  bool mapped_ = false;
  std::map<std::string, std::string> metadata_;
  std::vector<ContainerEntry> entries_;
};

class ContainerWriter {
 public:
  using Sink = std::function<void(std::span<const std::byte>)>;
  using Producer = std::function<void(const Sink&)>;

  void set(std::string key, std::string value);
  // A value that the tensors' bytes determine: save() asks for it once they are written. `longest` has as
  // many characters as any value can have, and the same ones that JSON escapes; blanks are added up to that.
  void set_last(std::string key, std::string longest, std::function<std::string()> value);
  // The bytes must live until save().
  void add(std::string name, FileType, std::vector<std::uint64_t> shape, std::span<const std::byte> bytes);
  // `produce` is called once in save() and hands exactly shape x size bytes to the sink, in pieces.
  void add(std::string name, FileType, std::vector<std::uint64_t> shape, Producer produce);
  // Orders tensors by falling element size, then name; pads the header so that data start at a multiple of
  // 64; writes durably. Throws Error(io).
  void save(const std::filesystem::path&) const;

 private:
  struct Item {
    std::string name;
    FileType type;
    std::vector<std::uint64_t> shape;
    std::uint64_t bytes;
    Producer produce;
  };
  std::string header(const std::vector<Item>& ordered,
                     const std::map<std::string, std::string>& metadata) const;

  std::map<std::string, std::string> metadata_;
  std::map<std::string, std::function<std::string()>> last_;  // of some of metadata_
  std::vector<Item> items_;
};

}  // namespace engine
