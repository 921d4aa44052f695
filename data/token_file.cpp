#include "data/token_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace data {
namespace {

constexpr std::size_t kCrcBytes = 1 << 20;
constexpr std::uint64_t kMappedBytes = 64 << 20;  // what read() may leave resident

std::uint64_t number(const engine::ContainerReader& file, const std::string& key, std::uint64_t at_most) {
  const std::string& text = file.meta(key);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  engine::require(
      error == std::errc() && end == text.data() + text.size() && !text.empty() && value <= at_most,
      engine::Exit::data, "{}: metadata {} is '{}', expected a number up to {}; the file is damaged",
      file.path(), key, text, at_most);
  return value;
}

const engine::ContainerEntry& tokens_entry(const engine::ContainerReader& file) {
  const engine::ContainerEntry* entry = file.find("tokens");
  engine::require(entry != nullptr && entry->shape.size() == 1 && entry->numel() > 0 &&
                      (entry->type == engine::FileType::u16 || entry->type == engine::FileType::u32),
                  engine::Exit::data,
                  "{}: no tensor 'tokens' of U16 or U32 [N]; expected a file made by prepare", file.path());
  return *entry;
}

const engine::ContainerEntry& vector_entry(const engine::ContainerReader& file, const char* name,
                                           engine::FileType type) {
  const engine::ContainerEntry& entry = file.at(name, type);
  engine::require(entry.shape.size() == 1, engine::Exit::data,
                  "{}: tensor '{}' has {} axes, expected 1; the file is damaged", file.path(), name,
                  entry.shape.size());
  return entry;
}

template <class T> std::uint64_t first_at_least(std::span<const T> ids, std::uint64_t bound) {
  T most = 0;
  for (const T id : ids) most = std::max(most, id);
  if (most < bound) return ids.size();
  return static_cast<std::uint64_t>(std::ranges::find_if(ids, [&](T id) { return id >= bound; }) -
                                    ids.begin());
}

}  // namespace

TokenFile::TokenFile(std::filesystem::path path) : file_(std::move(path)) { parse(); }

TokenFile::TokenFile(std::span<const std::byte> bytes, std::string name) : file_(bytes, std::move(name)) {
  parse();
}

void TokenFile::parse() {
  file_.require_format("nsa-tokens");
  const engine::ContainerEntry& tokens = tokens_entry(file_);
  tokens_ = tokens.bytes;
  width_ = engine::size_of(tokens.type);
  size_ = tokens.numel();
  vocab_size_ = static_cast<std::uint32_t>(number(file_, "vocab_size", std::uint64_t{1} << 31));
  end_of_text_ = static_cast<std::uint32_t>(number(file_, "end_of_text", std::uint64_t{1} << 31));
  validation_from_ = number(file_, "validation_from", size_);
  text_bytes_train_ = number(file_, "text_bytes_train", ~std::uint64_t{0});
  text_bytes_validation_ = number(file_, "text_bytes_validation", ~std::uint64_t{0});
  engine::require(end_of_text_ < vocab_size_, engine::Exit::data,
                  "{}: end_of_text {} is not below vocab_size {}; the file is damaged", this->path(),
                  end_of_text_, vocab_size_);

  documents_ = vector_entry(file_, "documents", engine::FileType::u64).as<std::uint64_t>();
  engine::require(documents_.size() >= 2 && documents_.front() == 0 && documents_.back() == size_,
                  engine::Exit::data, "{}: the document table does not run from 0 to {}; the file is damaged",
                  this->path(), size_);
  const auto fall = std::ranges::adjacent_find(documents_, std::greater{});
  engine::require(fall == documents_.end(), engine::Exit::data,
                  "{}: the document table falls after document {}; the file is damaged", this->path(),
                  fall - documents_.begin());

  const std::uint64_t crcs = vector_entry(file_, "tokens_crc32", engine::FileType::u32).numel();
  const std::uint64_t expected = (tokens_.size() + kCrcBytes - 1) / kCrcBytes;
  engine::require(crcs == expected, engine::Exit::data,
                  "{}: {} CRCs, expected {} for {} tokens; the file is damaged", this->path(), crcs, expected,
                  size_);
  const auto payload = vector_entry(file_, "tokenizer", engine::FileType::u8).bytes;
  payload_ = {reinterpret_cast<const char*>(payload.data()), payload.size()};
  check_tokens();
}

void TokenFile::check_tokens() const {
  const std::uint64_t step = kMappedBytes / width_;
  for (std::uint64_t from = 0; from < size_; from += step) {
    const std::uint64_t count = std::min(step, size_ - from);
    const std::byte* start = tokens_.data() + from * width_;
    const std::uint64_t bad =
        width_ == 2
            ? first_at_least(std::span(reinterpret_cast<const std::uint16_t*>(start), count), vocab_size_)
            : first_at_least(std::span(reinterpret_cast<const std::uint32_t*>(start), count), vocab_size_);
    release_pages();
    if (bad == count) continue;
    std::int32_t id = 0;
    read(from + bad, {&id, 1});
    engine::fail(engine::Exit::data,
                 "{}: token {} at index {}, expected ids below vocab_size {}; the file is damaged", path(),
                 static_cast<std::uint32_t>(id), from + bad, vocab_size_);
  }
}

void TokenFile::read(std::uint64_t from, std::span<std::int32_t> ids) const {
  engine::require(from <= size_ && ids.size() <= size_ - from, engine::Exit::data,
                  "{}: tokens {} to {} asked for, the file has {}", path(), from, from + ids.size(), size_);
  const std::byte* start = tokens_.data() + from * width_;
  if (width_ == 2) std::copy_n(reinterpret_cast<const std::uint16_t*>(start), ids.size(), ids.begin());
  else std::copy_n(reinterpret_cast<const std::uint32_t*>(start), ids.size(), ids.begin());
  constexpr std::uint64_t kFaultBytes = 64 << 10;  // one page fault maps about so much
  const std::uint64_t touched = kFaultBytes + ids.size() * width_;
  if (touched_.fetch_add(touched, std::memory_order_relaxed) + touched >= kMappedBytes) release_pages();
}

void TokenFile::release_pages() const noexcept {
  touched_.store(0, std::memory_order_relaxed);
  file_.release(tokens_);
}

std::unique_ptr<Tokenizer> TokenFile::tokenizer() const {
  std::unique_ptr<Tokenizer> tokenizer;
  try {
    tokenizer = deserialize_tokenizer(payload_, path());
  } catch (const engine::Error& error) {  // here it is a part of the data
    throw engine::Error(error.what(), engine::Exit::data);
  }
  engine::require(tokenizer->size() == vocab_size_ && tokenizer->end_of_text() == end_of_text_,
                  engine::Exit::data,
                  "{}: vocab_size {} and end_of_text {}, but its vocabulary has {} tokens and ends texts "
                  "by {}; the file is damaged",
                  path(), vocab_size_, end_of_text_, tokenizer->size(), tokenizer->end_of_text());
  return tokenizer;
}

std::string TokenFile::fingerprint() const {
  return fmt::format("{}-{}-{}", size_, validation_from_,
                     engine::crc32_hex(file_.find("tokens_crc32")->bytes));
}

void TokenFile::verify() const {
  const auto crcs = file_.find("tokens_crc32")->as<std::uint32_t>();
  for (std::size_t i = 0; i < crcs.size(); ++i) {
    const std::size_t from = i * kCrcBytes;
    const std::uint32_t found =
        engine::crc32_of(tokens_.subspan(from, std::min(kCrcBytes, tokens_.size() - from)));
    engine::require(
        found == crcs[i], engine::Exit::data,
        "{}: CRC-32 {:08x} of tokens {} and following, expected {:08x}; the file is damaged, make it again",
        path(), found, from / width_, crcs[i]);
    if (i % 64 == 63) release_pages();
  }
  const std::string found = tokenizer()->vocab_sha256();
  engine::require(found == vocab_sha256(), engine::Exit::data,
                  "{}: SHA-256 {} of the vocabulary, expected {}; the file is damaged, make it again", path(),
                  found, vocab_sha256());
}

}  // namespace data
