#include <optional>

#include "data/char_vocab.h"
#include "data/live_vocabulary.h"
#include "data/t2s.h"
#include "data/text_cut.h"
#include "data/utf8.h"
#include "tests/fuzz/support.h"

namespace tests::fuzz {
namespace {

struct Tools {
  Tools() {
    try {
      converter.emplace("t2s");
    } catch (const engine::Error&) {  // OpenCC is not installed: the rest is checked without it
    }
    constexpr std::string_view kText = "那條河流過山下的村子, 雨後的路很長。 Σίσυφος [SEP] ÀÉ 1990";
    for (const bool lower : {false, true}) {
      data::CharCounter counter({.lower = lower});
      counter.add(kText);
      vocabularies.push_back(counter.finish(400, 1.0));
      live.push_back(data::keep_live(counter.finish(400, 1.0), "a text"));
    }
  }
  std::optional<data::Converter> converter;
  std::vector<std::unique_ptr<data::WordPiece>> vocabularies;  // [cased, lower]
  std::vector<std::unique_ptr<data::Tokenizer>> live;          // of the same
};

std::string converted(const data::Converter* converter, std::string_view bytes) {
  const std::string text = data::repair_utf8(bytes);
  return converter != nullptr ? converter->convert(text) : text;
}

void check_repair(std::string_view bytes, std::size_t piece, const std::string& repaired) {
  hold(data::is_well_formed(repaired), "repaired text is well-formed");
  hold(data::repair_utf8(repaired) == repaired, "well-formed text is not repaired");
  hold(!data::is_well_formed(bytes) || repaired == bytes, "repair changes nothing that is well-formed");
  data::Utf8Repair stream(false);
  std::string pieces;
  for (std::size_t at = 0; at < bytes.size(); at += piece) stream.push(bytes.substr(at, piece), pieces);
  stream.finish(pieces);
  hold(pieces == repaired, "repair does not depend on pieces");
}

}  // namespace

// The first byte: bit 0 lower-cases, bit 1 converts, and its size gives sizes of pieces. Then text of any
// kind.
bool encode(Bytes bytes) {
  static const Tools tools;
  const Chosen chosen(bytes);
  const std::string_view text = text_of(chosen.rest);
  const data::WordPiece& vocabulary = *tools.vocabularies[chosen.choice % 2];
  check_repair(text, 1 + chosen.choice / 2 % 8, data::repair_utf8(text));
  const data::Converter* converter = tools.converter && chosen.choice & 2 ? &*tools.converter : nullptr;
  const std::string simplified = converted(converter, text);
  hold(data::is_well_formed(simplified), "converted text is well-formed");

  std::vector<std::uint32_t> ids;
  data::EncodeCounts counts;
  vocabulary.encode(simplified, ids, &counts);
  hold(counts.tokens == ids.size(), "tokens are counted");
  for (const std::uint32_t id : ids) hold(id < vocabulary.size(), "ids in the vocabulary");
  hold(data::is_well_formed(vocabulary.decode(ids)), "decoded text is well-formed");
  const data::Tokenizer& live = *tools.live[chosen.choice % 2];
  std::vector<std::uint32_t> live_ids;
  live.encode(simplified, live_ids);
  for (std::uint32_t& id : live_ids) id = live.whole_id(id);
  hold(live_ids == ids, "no live token is missing");

  // A part of the text is cut as a stream would, before the rest of it is in sight.
  const std::string_view seen = text.substr(0, text.size() - text.size() * (chosen.choice / 2) / 256);
  if (seen.empty()) return true;
  const std::size_t cut = data::safe_cut(seen, data::WordRule::bert, converter);
  hold(cut > 0 && cut <= seen.size(), "a cut in the text");
  const bool behind_blank = std::string_view(" \t\n").find(seen[cut - 1]) != std::string_view::npos;
  if (!behind_blank && cut >= data::whole_characters(seen)) return true;  // there was no safe place
  std::vector<std::uint32_t> parts;
  vocabulary.encode(converted(converter, text.substr(0, cut)), parts);
  vocabulary.encode(converted(converter, text.substr(cut)), parts);
  hold(parts == ids, "the same ids for two parts");
  return true;
}

}  // namespace tests::fuzz
