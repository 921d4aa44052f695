#include "data/utf8.h"
#include "data/wordpiece.h"
#include "tests/fuzz/support.h"

namespace tests::fuzz {

// The first byte: even for a cased vocabulary. Then a vocab.txt, NUL, and a text to encode with it.
bool vocabulary(Bytes bytes) {
  const Chosen chosen(bytes);
  const std::string_view all = text_of(chosen.rest);
  const std::size_t end = std::min(all.find('\0'), all.size());
  return taken([&] {
    const auto tokenizer = data::parse_vocab_txt(
        all.substr(0, end), {.lower = chosen.choice % 2 == 1, .hugging_face = chosen.choice / 2 % 2 == 1},
        "FILE");
    for (std::uint32_t id = 0; id < tokenizer->size(); ++id)
      hold(tokenizer->piece(id).find('\n') == std::string_view::npos, "tokens without line ends");
    const std::string text = data::repair_utf8(all.substr(std::min(end + 1, all.size())));
    std::vector<std::uint32_t> ids;
    std::vector<std::string> unknown;
    data::EncodeCounts counts;
    tokenizer->encode(text, ids, &counts, &unknown);
    hold(counts.tokens == ids.size() && counts.unknown == unknown.size(), "counts that are right");
    data::StreamDecoder stream(*tokenizer);
    std::string streamed;
    for (const std::uint32_t id : ids) {
      hold(id < tokenizer->size(), "ids in the vocabulary");
      streamed += stream.push(id);
      hold(data::is_well_formed(streamed), "whole characters only");
    }
    const std::string decoded = tokenizer->decode(ids);
    hold(data::is_well_formed(decoded), "well-formed text");
    hold(tokenizer->settled(decoded) <= decoded.size(), "no more settled than there is");
    hold(streamed + stream.finish() == decoded, "the same text as a stream");
  });
}

}  // namespace tests::fuzz
