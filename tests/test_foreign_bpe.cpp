#include "data/foreign_bpe.h"

#include <numeric>
#include <string>
#include <vector>

#include "data/byte_letters.h"
#include "data/id_ranges.h"
#include "data/sha256.h"
#include "engine/error.h"
#include "tests/error_code.h"
#include "tests/support.h"

namespace {

using Ids = std::vector<std::uint32_t>;

Ids encoded(const data::Tokenizer& tokenizer, std::string_view text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return ids;
}

Ids rising(std::uint32_t from, std::size_t count) {
  Ids ids(count);
  std::iota(ids.begin(), ids.end(), from);
  return ids;
}

std::unique_ptr<const data::ByteBpe> bpe(const std::vector<std::string>& merged) {
  return std::make_unique<data::ByteBpe>(merged, "FILE");
}

// As GPT-2 numbers them: bytes from 0, merged tokens from 256, end-of-text.
data::ForeignBpe like_gpt2(const std::vector<std::string>& merged) {
  const auto end = static_cast<std::uint32_t>(256 + merged.size());
  return {bpe(merged), rising(0, end), {{end, "<|endoftext|>"}}, "FILE"};
}

std::string refused_payload(const std::string& payload) {
  return tests::refusal_of_file([&] { data::parse_foreign_bpe(payload, "FILE"); });
}
bool holds(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("id ranges: any order, and only what is spelled so") {
  const Ids ids = {7, 8, 9, 3, 2, 0, 1};
  CHECK(data::spell_id_ranges(ids) == " 7-9 3 2 0-1");
  CHECK(data::parse_id_ranges(" 7-9 3 2 0-1", 10) == ids);
  CHECK(data::spell_id_ranges({}).empty());
  for (const char* wrong : {"7", " 7,8", " 7-", "  7", " 3-2", " 10", " 0-9 1", " 0-4294967295", " -1"})
    CHECK(data::spell_id_ranges(data::parse_id_ranges(wrong, 10)) != wrong);
}

TEST_CASE("foreign BPE: GPT-2's numbering") {
  // ! is 0, letters follow ASCII; a blank is the 32nd after the 188 bytes that Latin-1 shows.
  const data::ForeignBpe gpt2 = like_gpt2({"he", "ll", "hell", " he"});
  CHECK(gpt2.kind() == "bbpe");
  CHECK(gpt2.size() == 261);
  CHECK(gpt2.end_of_text() == 260);
  CHECK(encoded(gpt2, "hello") == Ids{258, 'o' - '!'});
  CHECK(encoded(gpt2, "!  he") == Ids{0, 220, 259});
  CHECK(encoded(gpt2, "\xFF") == Ids{187});
  CHECK(gpt2.piece(0) == "!");
  CHECK(gpt2.piece(220) == "Ġ");
  CHECK(gpt2.piece(259) == "Ġhe");
  CHECK(gpt2.piece(260) == "<|endoftext|>");
  CHECK(gpt2.decode(Ids{260, 258, 'o' - '!', 260, 259}) == "hello he");
  CHECK(gpt2.decode(encoded(gpt2, "a<|endoftext|>\xE4")) == "a<|endoftext|>\xE4");  // text, no end
  CHECK_THROWS_AS(gpt2.decode(Ids{261}), engine::Error);
  CHECK_THROWS_AS(gpt2.piece(261), engine::Error);
  data::EncodeCounts counts;
  Ids ids = {7};
  gpt2.encode("hello", ids, &counts);
  CHECK(ids == Ids{7, 258, 'o' - '!'});
  CHECK(counts.tokens == 2);
}

TEST_CASE("foreign BPE: the self-contained form") {
  const data::ForeignBpe gpt2 = like_gpt2({"he", "ll"});
  const std::string payload = gpt2.serialize();
  CHECK(payload.starts_with("bbpe 0-257\n!\n\"\n#\n"));
  CHECK(payload.ends_with("\nŃ\nhe\nll\n<|endoftext|>"));
  CHECK(gpt2.vocab_sha256() == data::sha256_hex(payload.substr(payload.find('\n') + 1)));

  // Merged tokens first, the last made first of all, markers among them and none for the end of a text.
  Ids ids = rising(4, 256);
  ids.insert(ids.end(), {3, 0});
  const data::ForeignBpe mixed(bpe({"he", "ll"}), ids, {{1, "<pad>"}, {2, "一 x"}}, "FILE");
  CHECK(mixed.end_of_text() == data::kNoToken);
  CHECK(encoded(mixed, "hell") == Ids{3, 0});
  CHECK(mixed.decode(Ids{0, 1, 2, 3}) == "llhe");
  CHECK(mixed.serialize().starts_with("bbpe 4-259 3 0\nll\n<pad>\n一 x\nhe\n!\n"));
  for (const data::ForeignBpe* saved : {&gpt2, &mixed}) {
    const auto again = data::deserialize_tokenizer(saved->serialize(), "FILE");
    CHECK(again->serialize() == saved->serialize());
    CHECK(again->vocab_sha256() == saved->vocab_sha256());
    CHECK(again->end_of_text() == saved->end_of_text());
    CHECK(encoded(*again, "hello, all") == encoded(*saved, "hello, all"));
  }
}

TEST_CASE("foreign BPE: what is refused") {
  const auto made = [](Ids ids, data::ForeignBpe::Markers markers) {
    return tests::refusal_of_file([&] { data::ForeignBpe(bpe({"he"}), ids, std::move(markers), "FILE"); });
  };
  CHECK(made(rising(0, 257), {}) == "taken");
  CHECK(holds(made(rising(0, 256), {}), "256 ids for 257 tokens"));
  CHECK(holds(made(rising(1, 257), {}), "token id 257, expected each from 0 to 256 once"));
  CHECK(holds(made(rising(0, 257), {{256, "x y"}}), "token id 256 twice"));
  CHECK(holds(made(rising(0, 257), {{300, "x y"}}), "token id 300, expected"));
  CHECK(holds(made(rising(0, 257), {{257, ""}}), "token 257 is ''"));
  CHECK(holds(made(rising(0, 257), {{257, "a\tb"}, {258, "a\tb"}}), "two tokens are 'a\tb'"));
  CHECK(holds(made(rising(0, 257), {{257, "he"}}), "two tokens are 'he'"));
  CHECK(holds(made(rising(0, 257), {{257, std::string(1025, 'x')}}), "1 to 1024 bytes"));
  CHECK(holds(made(rising(0, 257), {{257, "\xFF"}}), "UTF-8"));

  const std::string payload = like_gpt2({"he"}).serialize(), tokens = payload.substr(payload.find('\n'));
  REQUIRE(refused_payload("bbpe 0-256" + tokens) == "taken");
  CHECK(holds(refused_payload("bbpe 0-256"), "no line"));
  CHECK(holds(refused_payload("bbpe 0-300" + tokens), "first line"));
  CHECK(holds(refused_payload("bbpe 0-254" + tokens), "first line"));
  CHECK(holds(refused_payload("bbpe  0-256" + tokens), "first line"));
  CHECK(holds(refused_payload("bbpe 1 0 2-256" + tokens), "token 1 is not '!'"));
  CHECK(holds(refused_payload("bbpe 0-255 257" + tokens), "merge 1 makes '<|endoftext|>', which falls into"));
  CHECK(holds(refused_payload("bbpe 0-255 255" + tokens), "merge 1 makes a token of 1 bytes"));
  CHECK(holds(refused_payload("bbpe 0-256" + tokens + "\nńx"), "taken"));  // a marker
  CHECK(holds(refused_payload("bbpe 0-256 258" + tokens + "\nńx"), "token 258 holds a character"));
  CHECK(holds(refused_payload("bbpe 0-256" + tokens + "\n"), "token 258 is ''"));
}
