#include "data/foreign_tokens.h"

#include <cstring>

#include "tests/fuzz/support.h"

namespace tests::fuzz {
namespace {

constexpr std::uint32_t kVocabulary = 1000;

// The ids behind `header` bytes, read one by one.
std::vector<std::uint32_t> ids_in(Bytes file, std::size_t header, std::size_t width) {
  std::vector<std::uint32_t> ids;
  for (std::size_t at = header; at < file.size(); at += width) {
    std::uint32_t id = 0;
    std::memcpy(&id, file.data() + at, width);
    ids.push_back(id);
  }
  return ids;
}

}  // namespace

bool foreign_tokens(Bytes bytes) {
  const auto [choice, rest] = Chosen(bytes);
  const bool nanogpt = choice == 'n', made = choice == '2' || choice == '4';
  const std::size_t made_width = choice == '4' ? 4 : 2;
  std::string text;
  if (made) text = data::header_of(data::TokenFormat::llmc, made_width, rest.size() / made_width);
  text += text_of(rest);
  const NamelessFile file(bytes_of(text));
  return taken([&] {
    data::ForeignTokens tokens(file.path(), nanogpt ? data::TokenFormat::nanogpt : data::TokenFormat::llmc,
                               kVocabulary);
    std::vector<std::uint32_t> ids;
    for (auto some = tokens.next(); !some.empty(); some = tokens.next())
      ids.insert(ids.end(), some.begin(), some.end());
    hold(tokens.bytes() == text.size() && tokens.size() == ids.size() && !ids.empty(),
         "as many ids as it says");
    const std::size_t header = nanogpt ? 0 : 1024;
    hold(ids == ids_in(bytes_of(text), header, (text.size() - header) / ids.size()), "the ids of the file");
    for (const std::uint32_t id : ids) hold(id < kVocabulary, "ids in the vocabulary");
  });
}

}  // namespace tests::fuzz
