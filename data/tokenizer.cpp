#include "data/tokenizer.h"

#include <algorithm>

#include "data/byte_bpe.h"
#include "data/foreign_bpe.h"
#include "data/live_vocabulary.h"
#include "data/tokenizer_json.h"
#include "data/wordpiece.h"
#include "engine/container.h"
#include "engine/error.h"

namespace data {
namespace {

using engine::Exit;

// A checkpoint has no SHA-256 of its vocabulary in the metadata.
std::unique_ptr<Tokenizer> tokenizer_in(const engine::ContainerReader& file) {
  const auto payload = file.at("tokenizer", engine::FileType::u8).bytes;
  auto tokenizer =
      deserialize_tokenizer({reinterpret_cast<const char*>(payload.data()), payload.size()}, file.path());
  engine::require(
      file.meta("format").starts_with("nsa-checkpoint/") ||
          tokenizer->vocab_sha256() == file.meta("vocab_sha256"),
      Exit::checkpoint,
      "{}: the vocabulary does not have the SHA-256 that the header gives; the file is damaged, make it anew",
      file.path());
  return tokenizer;
}

}  // namespace

std::unique_ptr<Tokenizer> deserialize_tokenizer(std::string_view payload, const std::string& where) {
  if (payload.starts_with("bbpe ")) return parse_foreign_bpe(payload, where);
  if (payload.starts_with("bbpe")) return parse_byte_bpe(payload, where);
  if (payload.starts_with("live")) return parse_live_vocabulary(payload, where);
  return parse_wordpiece(payload, where);
}

void save_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& path) {
  const std::string payload = tokenizer.serialize();
  engine::ContainerWriter file;
  file.set("format", "nsa-tokenizer/1");
  file.set("tokenizer", std::string(tokenizer.kind()));
  file.set("vocab_size", std::to_string(tokenizer.size()));
  file.set("vocab_sha256", tokenizer.vocab_sha256());
  file.add("tokenizer", engine::FileType::u8, {payload.size()}, std::as_bytes(std::span(payload)));
  file.save(path);
}

std::unique_ptr<Tokenizer> read_vocabulary(const std::filesystem::path& path, BertRules rules) {
  const std::string name = path.string(), text = read_vocabulary_text(path, kMaxTokenizerJsonBytes + 1);
  if (!begins_as_json(text)) return parse_vocab_txt(text, rules, name);
  engine::require(
      rules == BertRules{}, Exit::usage,
      "--cased or --compat with {}: they are for WordPiece, and a tokenizer.json is byte-level BPE "
      "here; leave them out",
      name);
  engine::require(text.size() <= kMaxTokenizerJsonBytes, Exit::checkpoint,
                  "{}: over {} bytes, too large for a tokenizer.json", name, kMaxTokenizerJsonBytes);
  return parse_tokenizer_json(text, name);
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path, BertRules rules) {
  if (!engine::begins_as_container(path)) return read_vocabulary(path, rules);
  const engine::ContainerReader file(path, engine::Exit::checkpoint);
  file.require_format("nsa-tokenizer");
  return tokenizer_in(file);
}

std::unique_ptr<Tokenizer> load_vocabulary(const std::filesystem::path& path, BertRules rules) {
  if (!engine::begins_as_container(path)) return read_vocabulary(path, rules);
  const engine::ContainerReader file(path, Exit::checkpoint);
  const std::string& format = file.meta("format");
  const bool holds_one = format.starts_with("nsa-tokens/") || format.starts_with("nsa-checkpoint/");
  file.require_format(holds_one ? format.substr(0, format.find('/')) : "nsa-tokenizer");
  return tokenizer_in(file);
}

std::string StreamDecoder::push(std::uint32_t id) {
  const std::size_t added = tokenizer_.decode({&id, 1}).size();
  if (added == 0) return {};  // no text and no effect on its neighbours
  ids_.push_back(id);
  const std::string text = tokenizer_.decode(ids_);
  const std::size_t settled = std::max(sent_, tokenizer_.settled(text));
  std::string out = text.substr(sent_, settled - sent_);
  const std::size_t held = text.size() - settled;
  sent_ = settled;
  if (held <= added && ids_.size() > 2) {  // the last id holds all that is unsettled
    ids_.erase(ids_.begin(), ids_.end() - 2);
    sent_ = tokenizer_.decode(ids_).size() - held;
  }
  return out;
}

std::string StreamDecoder::finish() {
  std::string out = tokenizer_.decode(ids_).substr(sent_);
  ids_.clear();
  sent_ = 0;
  return out;
}

}  // namespace data
