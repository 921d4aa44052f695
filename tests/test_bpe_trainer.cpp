#include "data/bpe_trainer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <zlib.h>

#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "data/byte_letters.h"
#include "data/gpt2_words.h"
#include "data/sha256.h"
#include "engine/error.h"
#include "tests/support.h"

namespace {

std::unique_ptr<data::ByteBpe> trained(std::string_view text, std::uint32_t size,
                                       data::BpeReport* report = nullptr) {
  data::WordCounts counts;
  counts.add(text);
  return data::train_byte_bpe(std::move(counts), {.vocab_size = size, .poll = {}}, report);
}

std::vector<std::string> merged_tokens(const data::ByteBpe& vocabulary) {
  std::vector<std::string> tokens;
  for (std::uint32_t id = data::kFirstMerged; id < vocabulary.size(); ++id)
    tokens.push_back(*data::bytes_of_spelling(vocabulary.piece(id)));
  return tokens;
}

// The rule itself: count all pairs, join the most frequent one of the lowest ids, begin again.
std::vector<std::string> by_definition(std::string_view text, std::size_t size) {
  std::map<std::vector<std::uint32_t>, int> words;
  std::vector<std::string> tokens{""};
  for (const unsigned char byte : data::kBytesByLetter) tokens.emplace_back(1, static_cast<char>(byte));
  for (std::size_t from = 0; from < text.size();) {
    const std::size_t to = std::min(text.find('\n', from), text.size() - 1) + 1;
    data::for_each_gpt2_word(text.substr(from, to - from), [&](std::string_view word) {
      std::vector<std::uint32_t> ids;
      for (const char byte : word)
        ids.push_back(static_cast<std::uint32_t>(
            std::find(tokens.begin(), tokens.end(), std::string(1, byte)) - tokens.begin()));
      ++words[ids];
    });
    from = to;
  }
  while (tokens.size() < size) {
    std::map<std::pair<std::uint32_t, std::uint32_t>, int> pairs;
    for (const auto& [ids, times] : words)
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) pairs[{ids[i], ids[i + 1]}] += times;
    std::pair<std::uint32_t, std::uint32_t> best;
    int most = 0;
    for (const auto& [pair, times] : pairs)
      if (times > most) best = pair, most = times;
    if (most == 0) break;
    const auto joined = static_cast<std::uint32_t>(tokens.size());
    tokens.push_back(tokens[best.first] + tokens[best.second]);
    std::map<std::vector<std::uint32_t>, int> after;
    for (const auto& [ids, times] : words) {
      std::vector<std::uint32_t> word;
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const bool here = i + 1 < ids.size() && std::pair(ids[i], ids[i + 1]) == best;
        word.push_back(here ? joined : ids[i]);
        i += here;
      }
      after[word] += times;
    }
    words = after;
  }
  return {tokens.begin() + data::kFirstMerged, tokens.end()};
}

// A text by a rule, some of its pieces much more often than others.
std::string made_text() {
  const std::vector<std::string> pieces = {"山", "水",   "山水", "天地",  "地", "人",  "人山", "上", "下",
                                           "，", "。",   "the ", "then ", "a",  "ab",  "12",   "2 ", "'s ",
                                           "\n", "\n\n", " ",    "…",     "é",  "на ", "日"};
  std::string text;
  std::uint64_t state = 12345;
  for (int i = 0; i < 6000; ++i) {
    state = (state * 1103515245 + 12345) % (1u << 31);
    const std::uint64_t number = (state >> 16) % (pieces.size() * pieces.size());
    text += pieces[number / pieces.size() * (number % pieces.size()) / pieces.size()];
  }
  return text;
}

std::string unpacked(const std::filesystem::path& path) {
  std::string text, piece(1 << 20, '\0');
  const gzFile file = gzopen(path.c_str(), "rb");
  for (int bytes = 1; bytes > 0;) {
    bytes = gzread(file, piece.data(), static_cast<unsigned>(piece.size()));
    text.append(piece, 0, static_cast<std::size_t>(std::max(bytes, 0)));
  }
  gzclose(file);
  return text;
}

}  // namespace

TEST_CASE("BPE training: by hand") {
  // low x3, lower x2, newest x2: "lo" and "ow" 5 times each, l before o; then "low", "we", ...
  data::BpeReport report;
  const auto vocabulary = trained("low low low lower lower newest newest", 262, &report);
  // " low" 4 times with its blank: Ġ has the highest id of all letters here, so pairs without it come first.
  CHECK(merged_tokens(*vocabulary) == std::vector<std::string>{"lo", "low", " low", "er", "es"});
  CHECK(report.size == 262);
  CHECK(report.words == 4);  // low, Ġlow, Ġlower, Ġnewest
  CHECK(report.rarest == 2);
  CHECK(report.text_bytes == 37);
}

TEST_CASE("BPE training: runs of one letter") {
  CHECK(merged_tokens(*trained("aaaaaaa", 300)) == std::vector<std::string>{"aa", "aaaa", "aaa", "aaaaaaa"});
  CHECK(merged_tokens(*trained("aaa aaa", 300)) == std::vector<std::string>{"aa", "aaa", " aaa"});
}

TEST_CASE("BPE training: no larger than asked, smaller where no pair is left") {
  CHECK(trained("abc abc", 257)->size() == 257);
  CHECK(trained("abc abc", 258)->size() == 258);
  CHECK(trained("abc abc", 1000)->size() == 260);
  CHECK(trained("", 1000)->size() == 257);
  CHECK(trained("a b\nc", 1000)->size() == 258);
  try {
    trained("abc", 256);
    FAIL("took a size below 257");
  } catch (const engine::Error& error) {
    CHECK(error.code == engine::Exit::usage);
    CHECK(std::string(error.what()).find("--vocab-size 256") == 0);
    CHECK(std::string(error.what()).find("257") != std::string::npos);
  }
}

TEST_CASE("BPE training: words end at line ends, and no token is longer than 1024 bytes") {
  CHECK(merged_tokens(*trained("a\n\nb\n\n", 300)).empty());
  CHECK(merged_tokens(*trained(std::string(1 << 20, 'a'), 300)).back().size() == 1024);
}

TEST_CASE("BPE training: the rule, on texts of few letters") {
  std::mt19937 random(5);
  for (int round = 0; round < 60; ++round) {
    const std::vector<std::string> letters = {"a", "b", "一", "丁", " ", "\n", "1", "\xFF"};
    std::string text;
    for (std::size_t n = 1 + random() % 400; n > 0; --n) text += letters[random() % (2 + random() % 7)];
    const std::uint32_t size = 257 + random() % 80;
    CAPTURE(text);
    REQUIRE(merged_tokens(*trained(text, size)) == by_definition(text, size));
  }
}

// By Hugging Face's tokenizers 0.23.3 from the same text: ByteLevel(add_prefix_space=False),
// BpeTrainer(vocab_size, special_tokens=["<|endoftext|>"], initial_alphabet=ByteLevel.alphabet()),
// train([file]).
TEST_CASE("BPE training: as Hugging Face's trainer") {
  const std::string text = made_text();
  REQUIRE(text.size() == 21729);
  const auto small = trained(text, 280);
  CHECK(small->piece(257) == "±±");
  CHECK(small->piece(263) == "å±±æ°´");
  CHECK(small->piece(279) == "¼Į");
  CHECK(small->vocab_sha256() == "2728fd239009593ec3711ab07ec2ad0d7cbb42162968ae6035629574c530edef");
  const auto vocabulary = trained(text, 2000);
  CHECK(vocabulary->vocab_sha256() == "9cfab7e9073b931fd74392e3e22755e08f75d38e215b8e5ead29a7fa0ce272cb");
  std::vector<std::uint32_t> ids;
  vocabulary->encode(text, ids);
  CHECK(ids.size() == 2052);
  CHECK(data::sha256_hex(fmt::format("{}", fmt::join(ids, " "))) ==
        "49923010f24e7c4dbba8ef252833c8c51b85963002961df12617f4cb23f525c3");
  CHECK(vocabulary->decode(ids) == text);
}

TEST_CASE("BPE training: the order of the text and the number of counters do not matter") {
  const std::string text = made_text();
  const std::size_t half = text.find('\n', text.size() / 2) + 1;
  const auto whole = trained(text, 1000)->serialize();
  CHECK(trained(text.substr(half) + "\n" + text.substr(0, half), 1000)->serialize() ==
        trained(text + "\n", 1000)->serialize());
  data::WordCounts left, right;
  right.add(std::string_view(text).substr(0, half));
  left.add(std::string_view(text).substr(half));
  left.merge(right);
  CHECK(left.text_bytes() == text.size());
  CHECK(data::train_byte_bpe(std::move(left), {.vocab_size = 1000, .poll = {}})->serialize() == whole);
}

// The tokens of Hugging Face's trainer, joined by line ends, as above.
TEST_CASE("BPE training: the 30,000 tokens of the published texts" *
          doctest::skip(tests::lacks_shared("BPE training: the 30,000 tokens of the published texts",
                                            "zhwiki-sample.txt.gz"))) {
  const std::string text = unpacked(tests::shared_data() / "zhwiki-sample.txt.gz");
  const auto vocabulary = trained(text, 30000);
  CHECK(vocabulary->vocab_sha256() == "b7432c25f12f1407451b098d415fcd5ca92e42a7159f3e891797c3b92633b783");
  std::vector<std::uint32_t> ids;
  vocabulary->encode(text, ids);
  CHECK(ids.size() == 1720713);
  CHECK(vocabulary->decode(ids) == text);
}
