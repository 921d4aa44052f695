#include "data/token_exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "engine/durable_file.h"

namespace data {
namespace {

constexpr std::size_t kIdsAtOnce = 1 << 18;
constexpr std::uint32_t kMost16Bits = 1 << 16;

// UTF-8 bytes of each id by itself; end-of-text has none. A WordPiece leaves out the blanks between words.
std::vector<std::uint32_t> text_bytes(const Tokenizer& tokenizer) {
  std::vector<std::uint32_t> bytes(tokenizer.size());
  for (std::uint32_t id = 0; id < tokenizer.size(); ++id)
    if (id != tokenizer.end_of_text())
      bytes[id] = static_cast<std::uint32_t>(tokenizer.decode({&id, 1}).size());
  return bytes;
}

}  // namespace

TokenFileSummary import_tokens(ForeignTokens& from, const Tokenizer& tokenizer,
                               const std::filesystem::path& output, double validation_share,
                               TokenFileNotes notes, const std::function<void()>& poll) {
  TokenFileWriter out(output, tokenizer, false, {Split::Rule::tail, validation_share}, poll);
  const std::vector<std::uint32_t> bytes_of = text_bytes(tokenizer);
  std::uint64_t documents = 0;
  bool open = false;  // a document that goes on
  for (auto ids = from.next(); !ids.empty(); ids = from.next()) {
    poll();
    while (!ids.empty()) {
      const auto end = std::ranges::find(ids, tokenizer.end_of_text());
      const bool ended = end != ids.end();
      const auto piece = ids.first(static_cast<std::size_t>(end - ids.begin()) + ended);
      std::uint64_t bytes = 0;
      for (const std::uint32_t id : piece) bytes += bytes_of[id];
      out.add(piece, bytes);
      if (ended) out.end_document_as_it_is(0);
      documents += !open;
      open = !ended;
      ids = ids.subspan(piece.size());
    }
  }
  if (open) out.end_document_as_it_is(0);
  notes.counts = fmt::format("{{\"documents\":{},\"input_bytes\":{}}}", documents, from.bytes());
  return out.finish(notes);
}

void export_tokens(const TokenFile& file, std::uint64_t from, std::uint64_t to, TokenFormat format,
                   const std::filesystem::path& output, const std::function<void()>& poll) {
  const auto tokenizer =
      file.tokenizer();  // readers know the whole vocabulary's ids, not those of live tokens
  std::vector<std::int32_t> whole_ids;
  for (std::uint32_t id = 0; id < file.vocab_size(); id++)
    whole_ids.push_back(std::int32_t(tokenizer->whole_id(id)));
  const std::size_t width = tokenizer->whole().size() <= kMost16Bits ? 2 : 4;
  const std::string header = header_of(format, width, to - from);
  engine::DurableFile out(output);
  out.write(std::as_bytes(std::span(header)));
  std::vector<std::int32_t> ids;
  std::vector<std::uint16_t> narrow;
  for (; from < to; from += ids.size()) {
    poll();
    ids.resize(std::min<std::uint64_t>(kIdsAtOnce, to - from));
    file.read(from, ids);
    for (std::int32_t& id : ids) id = whole_ids[std::size_t(id)];
    if (width == 2) narrow.assign(ids.begin(), ids.end());
    out.write(width == 2 ? std::as_bytes(std::span(narrow)) : std::as_bytes(std::span(ids)));
  }
  out.commit();
}

}  // namespace data
