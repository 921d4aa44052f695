#include "data/foreign_bpe.h"

#include <algorithm>
#include <set>

#include "data/byte_letters.h"
#include "data/id_ranges.h"
#include "data/sha256.h"
#include "data/utf8.h"
#include "engine/error.h"

namespace data {
namespace {

using engine::Exit;
using engine::require;

constexpr std::string_view kHeading = "bbpe";

void check_names(const ByteBpe& bpe, const ForeignBpe::Markers& markers, const std::string& where) {
  std::set<std::string_view> names;
  for (const auto& [id, name] : markers) {
    require(!name.empty() && name.size() <= kMaxTokenBytes && name.find('\n') == name.npos &&
                is_well_formed(name),
            Exit::checkpoint, "{}: token {} is '{}', expected 1 to {} bytes of UTF-8 without a line feed",
            where, id, name.substr(0, kMaxTokenBytes), kMaxTokenBytes);
    require(names.insert(name).second, Exit::checkpoint, "{}: two tokens are '{}', expected it once", where,
            name);
  }
  for (std::uint32_t id = 1; id < bpe.size(); ++id)
    require(!names.contains(bpe.piece(id)), Exit::checkpoint, "{}: two tokens are '{}', expected it once",
            where, bpe.piece(id));
}

}  // namespace

ForeignBpe::ForeignBpe(std::unique_ptr<const ByteBpe> bpe, const std::vector<std::uint32_t>& ids,
                       Markers markers, const std::string& where)
    : bpe_(std::move(bpe)), id_of_{kNoToken}, markers_(std::move(markers)) {
  require(ids.size() + 1 == bpe_->size(), Exit::checkpoint, "{}: {} ids for {} tokens; the file is damaged",
          where, ids.size(), bpe_->size() - 1);
  check_names(*bpe_, markers_, where);
  native_.assign(ids.size() + markers_.size(), kNoToken);
  const auto take = [&](std::uint32_t id, std::uint32_t native) {
    require(id < size(), Exit::checkpoint, "{}: token id {}, expected each from 0 to {} once", where, id,
            size() - 1);
    require(native_[id] == kNoToken, Exit::checkpoint,
            "{}: token id {} twice, expected each from 0 to {} once", where, id, size() - 1);
    native_[id] = native;
  };
  for (const std::uint32_t id : ids) {
    take(id, static_cast<std::uint32_t>(id_of_.size()));
    id_of_.push_back(id);
  }
  for (const auto& [id, name] : markers_) {
    take(id, 0);
    if (name == kEndOfText) end_of_text_ = id;
  }
}

std::uint32_t ForeignBpe::native(std::uint32_t id) const {
  require(id < size(), Exit::data, "token id {} is outside the vocabulary; expected 0 to {}", id, size() - 1);
  return native_[id];
}

std::string_view ForeignBpe::piece(std::uint32_t id) const {
  const std::uint32_t token = native(id);
  return token == 0 ? std::string_view(markers_.at(id)) : bpe_->piece(token);
}

void ForeignBpe::encode(std::string_view text, std::vector<std::uint32_t>& ids, EncodeCounts* counts,
                        std::vector<std::string>* unknown_words) const {
  const std::size_t before = ids.size();
  bpe_->encode(text, ids, counts, unknown_words);
  for (std::uint32_t& id : std::span(ids).subspan(before)) id = id_of_[id];
}

std::string ForeignBpe::decode(std::span<const std::uint32_t> ids) const {
  std::vector<std::uint32_t> tokens;
  tokens.reserve(ids.size());
  for (const std::uint32_t id : ids) tokens.push_back(native(id));
  return bpe_->decode(tokens);
}

std::string ForeignBpe::joined() const {
  std::string text;
  for (std::uint32_t id = 0; id < size(); ++id) (text += piece(id)) += '\n';
  text.pop_back();
  return text;
}

std::string ForeignBpe::serialize() const {
  return (std::string(kHeading) += spell_id_ranges(std::span(id_of_).subspan(1))) + '\n' + joined();
}

std::string ForeignBpe::vocab_sha256() const { return sha256_hex(joined()); }

std::unique_ptr<ForeignBpe> parse_foreign_bpe(std::string_view payload, const std::string& where) {
  const std::size_t end = std::min(payload.find('\n'), payload.size());
  require(payload.starts_with(kHeading) && end < payload.size(), Exit::checkpoint,
          "{}: no line 'bbpe' with the ids of the tokens; the file is damaged", where);
  std::vector<std::string_view> tokens;
  for (std::size_t from = end + 1; from <= payload.size(); from += tokens.back().size() + 1)
    tokens.push_back(payload.substr(from, payload.find('\n', from) - from));
  const std::string_view list = payload.substr(kHeading.size(), end - kHeading.size());
  const std::vector<std::uint32_t> ids = parse_id_ranges(list, static_cast<std::uint32_t>(tokens.size()));
  require(spell_id_ranges(ids) == list && ids.size() >= kBytesByLetter.size(), Exit::checkpoint,
          "{}: the first line does not hold the ids of at least {} of the {} tokens; the file is damaged",
          where, kBytesByLetter.size(), tokens.size());

  std::vector<bool> is_marker(tokens.size(), true);
  std::vector<std::string> merged;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    auto bytes = bytes_of_spelling(tokens[ids[i]]);
    require(bytes.has_value(), Exit::checkpoint,
            "{}: token {} holds a character that stands for no byte; the file is damaged", where, ids[i]);
    is_marker[ids[i]] = false;
    if (i >= kBytesByLetter.size()) {
      merged.push_back(std::move(*bytes));
    } else {
      const auto expected = static_cast<char>(kBytesByLetter[i]);
      require(
          *bytes == std::string_view(&expected, 1), Exit::checkpoint,
          "{}: token {} is not '{}'; expected the ids of the 256 bytes in the order of their letters; the "
          "file is damaged",
          where, ids[i], spell_bytes({&expected, 1}));
    }
  }
  ForeignBpe::Markers markers;
  for (std::uint32_t id = 0; id < tokens.size(); ++id)
    if (is_marker[id]) markers.emplace(id, tokens[id]);
  return std::make_unique<ForeignBpe>(std::make_unique<ByteBpe>(merged, where), ids, std::move(markers),
                                      where);
}

}  // namespace data
