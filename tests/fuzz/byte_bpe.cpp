#include <map>
#include <utility>

#include "data/bpe_trainer.h"
#include "data/gpt2_words.h"
#include "tests/fuzz/support.h"

namespace tests::fuzz {
namespace {

using Ids = std::vector<std::uint32_t>;

// By the definition: in each word the earliest merge first, at its leftmost place.
Ids by_definition(const data::ByteBpe& vocabulary, std::string_view text) {
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> merges;
  for (std::uint32_t id = data::kFirstMerged; id < vocabulary.size(); ++id) {
    const auto [left, right] = vocabulary.parts(id);
    merges[{left, right}] = id;
  }
  const data::ByteBpe bytes({}, "the bytes alone");
  Ids all;
  data::for_each_gpt2_word(text, [&](std::string_view word) {
    Ids ids;
    bytes.encode(word, ids);
    for (;;) {
      std::uint32_t first = data::kNoToken;
      std::size_t place = 0;
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
        const auto found = merges.find({ids[i], ids[i + 1]});
        if (found != merges.end() && found->second < first) first = found->second, place = i;
      }
      if (first == data::kNoToken) break;
      ids[place] = first;
      ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(place) + 1);
    }
    all.insert(all.end(), ids.begin(), ids.end());
  });
  return all;
}

}  // namespace

// The first byte: the size of the vocabulary. Then a text to train on, NUL, and bytes to encode.
bool byte_bpe(Bytes bytes) {
  const Chosen chosen(bytes);
  const std::string_view all = text_of(chosen.rest);
  const std::string_view learned = all.substr(0, all.find('\0'));
  const std::string_view text = all.substr(std::min(learned.size() + 1, all.size()));
  data::WordCounts counts;
  counts.add(learned);
  const auto vocabulary =
      data::train_byte_bpe(std::move(counts), {.vocab_size = data::kFirstMerged + chosen.choice, .poll = {}});
  hold(vocabulary->size() <= data::kFirstMerged + chosen.choice, "no larger than asked");
  hold(data::deserialize_tokenizer(vocabulary->serialize(), "FILE")->serialize() == vocabulary->serialize(),
       "the same after writing");
  for (const std::string_view part : {learned, text}) {
    Ids ids;
    vocabulary->encode(part, ids);
    hold(vocabulary->decode(ids) == part, "bytes that come back");
    hold(vocabulary->settled(part) <= part.size(), "no more settled than there is");
    constexpr std::size_t kSlow = 300;
    if (part.size() <= kSlow) hold(ids == by_definition(*vocabulary, part), "the ids of the definition");
    const std::size_t at = part.size() * chosen.choice / 256;
    if (at == 0 || !data::parts_gpt2_words(part, at)) continue;
    Ids parts;
    vocabulary->encode(part.substr(0, at), parts);
    vocabulary->encode(part.substr(at), parts);
    hold(parts == ids, "the same ids for two parts");
  }
  return true;
}

}  // namespace tests::fuzz
