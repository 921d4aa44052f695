// The token file: what the writer lays out, how it splits, and what the reader refuses.
#include <fmt/format.h>

#include <cstring>
#include <numeric>

#include "data/token_file.h"
#include "data/wordpiece.h"
#include "engine/container.h"
#include "engine/error.h"
#include "tests/error_code.h"
#include "tests/support.h"

namespace {

using tests::code_of;

using data::Split;
namespace fs = std::filesystem;

std::unique_ptr<data::WordPiece> vocabulary(std::uint32_t size) {
  std::vector<std::string> tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  while (tokens.size() < size) tokens.push_back(fmt::format("t{}", tokens.size()));
  return std::make_unique<data::WordPiece>(tokens, data::BertRules(), "test");
}

struct Doc {
  std::vector<std::uint32_t> ids;
  std::uint64_t hash;
};

data::TokenFileSummary write(const fs::path& path, const data::Tokenizer& tokenizer,
                             const std::vector<Doc>& docs, Split split, bool raw = false) {
  data::TokenFileWriter out(path, tokenizer, raw, split);
  for (const Doc& doc : docs) {
    out.add(doc.ids, 10 * doc.ids.size());
    if (!raw) out.end_document(doc.hash);
  }
  return out.finish({"off", "", "15", "test", "{}", "test"});
}

std::vector<std::int32_t> all_ids(const data::TokenFile& file) {
  std::vector<std::int32_t> ids(file.size());
  file.read(0, ids);
  return ids;
}

std::vector<std::uint64_t> starts(const data::TokenFile& file) {
  return {file.documents().begin(), file.documents().end()};
}

using Ids = std::vector<std::int32_t>;
using Starts = std::vector<std::uint64_t>;
constexpr std::uint64_t kHalf = std::uint64_t{1} << 63;

}  // namespace

TEST_CASE("token file: hash split puts validation documents last") {
  tests::TempDir dir;
  const auto tokenizer = vocabulary(20);
  const std::vector<Doc> docs = {{{5, 6}, kHalf - 1}, {{7}, kHalf}, {{8, 9, 10}, kHalf + 9}, {{11}, 0}};
  const auto summary = write(dir / "x", *tokenizer, docs, {Split::Rule::hash, 0.5});
  const data::TokenFile file(dir / "x");
  CHECK(all_ids(file) == Ids{7, 3, 8, 9, 10, 3, 5, 6, 3, 11, 3});
  CHECK(starts(file) == Starts{0, 2, 6, 9, 11});
  CHECK(file.validation_from() == 6);
  CHECK(file.text_bytes_train() == 40);
  CHECK(file.text_bytes_validation() == 30);
  CHECK(summary.validation_documents == 2);
  CHECK(file.end_of_text() == 3);
  CHECK(file.vocab_size() == 20);
  CHECK(file.tokenizer()->vocab_sha256() == file.vocab_sha256());
  CHECK(file.container().find("tokens")->type == engine::FileType::u16);
  file.verify();
}

TEST_CASE("token file: at least one document on each side") {
  tests::TempDir dir;
  const auto tokenizer = vocabulary(20);
  const std::vector<Doc> docs = {{{5}, kHalf}, {{6}, kHalf - 1}, {{7}, kHalf + 1}};
  CHECK(write(dir / "x", *tokenizer, docs, {Split::Rule::hash, 0.01}).validation_from == 4);
  CHECK(all_ids(data::TokenFile(dir / "x")) == Ids{5, 3, 7, 3, 6, 3});
  CHECK(write(dir / "x", *tokenizer, docs, {Split::Rule::hash, 0.99}).validation_from == 2);
  CHECK(all_ids(data::TokenFile(dir / "x")) == Ids{7, 3, 5, 3, 6, 3});
  const std::vector<Doc> equal = {{{5}, 1}, {{6}, 1}};
  CHECK(write(dir / "x", *tokenizer, equal, {Split::Rule::hash, 0.5}).validation_from == 2);
  CHECK(write(dir / "x", *tokenizer, docs, {Split::Rule::hash, 0}).validation_from == 6);
}

TEST_CASE("token file: tail split") {
  tests::TempDir dir;
  const auto tokenizer = vocabulary(20);
  const std::vector<Doc> docs = {{{5, 5, 5}, 0}, {{6, 6}, 0}, {{7, 7, 7, 7}, 0}};  // 4 + 3 + 5 tokens
  const auto from = [&](double share) {
    const auto summary = write(dir / "x", *tokenizer, docs, {Split::Rule::tail, share});
    CHECK(starts(data::TokenFile(dir / "x")) == Starts{0, 4, 7, 12});
    CHECK(summary.text_bytes_train + summary.text_bytes_validation == 90);
    return summary.validation_from;
  };
  CHECK(from(0.05) == 12);  // floor(12 x 0.05) tokens: none
  CHECK(from(0.1) == 7);    // no start at or after token 11: the last document
  CHECK(from(0.42) == 7);   // from token 7 on
  CHECK(from(0.6) == 7);    // token 5: the first start behind it
  CHECK(from(0.7) == 4);
  CHECK(from(0.99) == 4);  // never all
  // A single document, or a raw stream, is cut at the token.
  const std::vector<Doc> one = {{{5, 6, 7, 8, 9, 10, 11, 12, 13}, 0}};
  const auto single = write(dir / "x", *tokenizer, one, {Split::Rule::hash, 0.29});
  CHECK(single.tail_instead_of_hash);
  CHECK(single.validation_from == 8);  // 10 - floor(2.9)
  CHECK(single.text_bytes_train == 72);
  const auto raw = write(dir / "x", *tokenizer, docs, {Split::Rule::tail, 0.5}, true);
  CHECK(raw.tokens == 9);
  CHECK(raw.validation_from == 5);
  CHECK(raw.text_bytes_train == 50);
  CHECK(all_ids(data::TokenFile(dir / "x")) == Ids{5, 5, 5, 6, 6, 7, 7, 7, 7});
  CHECK(starts(data::TokenFile(dir / "x")) == Starts{0, 9});
}

TEST_CASE("token file: an abandoned document leaves nothing") {
  tests::TempDir dir;
  const auto tokenizer = vocabulary(20);
  data::TokenFileWriter out(dir / "x", *tokenizer, false, {Split::Rule::tail, 0});
  const std::vector<std::uint32_t> some(3'000'000, 7), kept = {5};
  out.add(kept, 1);
  out.end_document(0);
  out.add(some, 1);  // more than the spool's buffer
  out.abandon_document();
  out.add(kept, 1);
  out.end_document(0);
  out.add(kept, 1);  // never ended
  out.finish({});
  data::TokenFile(dir / "x").verify();
  CHECK(all_ids(data::TokenFile(dir / "x")) == Ids{5, 3, 5, 3});
  CHECK(std::distance(fs::directory_iterator(dir.path()), {}) == 1);
  CHECK(code_of([&] { out.add(std::vector<std::uint32_t>{20}, 1); }) == 3);
}

TEST_CASE("token file: wide ids, many MiB, checksums") {
  tests::TempDir dir;
  const auto tokenizer = vocabulary(65537);
  std::vector<Doc> docs(40);
  std::uint32_t next = 0;
  for (Doc& doc : docs) {
    doc.ids.resize(20'000);
    for (auto& id : doc.ids) id = next++ % 65537;
    doc.hash = std::uint64_t{next} * 0x9e3779b97f4a7c15;
  }
  write(dir / "x", *tokenizer, docs, {Split::Rule::hash, 0.3});
  {
    const data::TokenFile file(dir / "x");
    CHECK(file.container().find("tokens")->type == engine::FileType::u32);
    file.verify();
    CHECK(file.container().find("tokens_crc32")->numel() == 4);  // 3.2 MB
    for (std::size_t d = 0; d + 1 < file.documents().size();
         ++d) {  // each document is whole, wherever it went
      const std::uint64_t from = file.documents()[d];
      REQUIRE(file.documents()[d + 1] - from == 20'001);
      Ids ids(20'001);
      file.read(from, ids);
      CHECK(ids.back() == 3);
      bool counts_up = true;
      for (std::size_t i = 1; i < 20'000; ++i) counts_up = counts_up && ids[i] == (ids[i - 1] + 1) % 65537;
      CHECK(counts_up);
    }
    Ids none(1);
    CHECK(code_of([&] { file.read(file.size(), none); }) == 3);
    CHECK(code_of([&] { file.read(~std::uint64_t{0}, none); }) == 3);
  }
  std::string bytes = tests::read_file(dir / "x");
  const std::size_t at = bytes.size() / 2;
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  tests::write_file(dir / "y", bytes);
  CHECK(code_of([&] { data::TokenFile(dir / "y").verify(); }) == 3);
  CHECK(data::TokenFile(dir / "x").fingerprint() == data::TokenFile(dir / "y").fingerprint());
}

TEST_CASE("token file: the reader refuses what contradicts itself") {
  tests::TempDir dir;
  const auto tokenizer = vocabulary(20);
  const std::string payload = tokenizer->serialize();
  struct Parts {
    std::vector<std::uint16_t> tokens = {5, 3, 6, 3};
    std::vector<std::uint64_t> documents = {0, 2, 4};
    std::vector<std::uint32_t> crcs = {1};
    std::map<std::string, std::string> meta = {{"format", "nsa-tokens/1"}, {"vocab_size", "20"},
                                               {"end_of_text", "3"},       {"validation_from", "2"},
                                               {"text_bytes_train", "1"},  {"text_bytes_validation", "1"}};
  };
  const auto open = [&](const Parts& parts, std::string* message = nullptr) {
    engine::ContainerWriter out;
    for (const auto& [key, value] : parts.meta) out.set(key, value);
    out.add("tokens", engine::FileType::u16, {parts.tokens.size()}, std::as_bytes(std::span(parts.tokens)));
    out.add("documents", engine::FileType::u64, {parts.documents.size()},
            std::as_bytes(std::span(parts.documents)));
    out.add("tokens_crc32", engine::FileType::u32, {parts.crcs.size()}, std::as_bytes(std::span(parts.crcs)));
    out.add("tokenizer", engine::FileType::u8, {payload.size()}, std::as_bytes(std::span(payload)));
    out.save(dir / "x");
    return code_of([&] { data::TokenFile file(dir / "x"); }, message);
  };
  const auto with = [](auto change) {
    Parts parts;
    change(parts);
    return parts;
  };
  std::string message;
  CHECK(open({}) == 0);
  CHECK(open(with([](Parts& p) { p.tokens[2] = 20; }), &message) == 3);
  CHECK(message.find("token 20 at index 2") != std::string::npos);
  CHECK(open(with([](Parts& p) { p.tokens.clear(); })) == 3);
  CHECK(open(with([](Parts& p) { p.documents = {0, 3, 2, 4}; }), &message) == 3);
  CHECK(message.find("falls after document 1") != std::string::npos);
  CHECK(open(with([](Parts& p) { p.documents = {0, 2, 5}; })) == 3);
  CHECK(open(with([](Parts& p) { p.documents = {1, 4}; })) == 3);
  CHECK(open(with([](Parts& p) { p.documents = {4}; })) == 3);
  CHECK(open(with([](Parts& p) { p.crcs = {1, 2}; })) == 3);
  for (const char* bad : {"5", "-1", "", "2x", "99999999999999999999999"}) {
    CAPTURE(bad);
    CHECK(open(with([&](Parts& p) { p.meta["validation_from"] = bad; })) == 3);
  }
  CHECK(open(with([](Parts& p) { p.meta["end_of_text"] = "20"; })) == 3);
  CHECK(open(with([](Parts& p) { p.meta.erase("vocab_size"); })) == 3);
  CHECK(open(with([](Parts& p) { p.meta["format"] = "nsa-tokens/2"; }), &message) == 3);
  CHECK(message.find("newer") != std::string::npos);
  for (const auto& [key, value] :
       {std::pair{"vocab_size", "21"}, {"vocab_size", "2147483648"}, {"end_of_text", "4"}}) {
    CAPTURE(key);
    REQUIRE(open(with([&](Parts& p) { p.meta[key] = value; })) == 0);  // its tokens are below it all the same
    CHECK(code_of([&] { data::TokenFile(dir / "x").tokenizer(); }, &message) == 3);
    CHECK(message.find("its vocabulary has 20 tokens and ends texts by 3") != std::string::npos);
  }
  CHECK(open({}) == 0);
  const std::string whole = tests::read_file(dir / "x");
  for (std::size_t cut = 0; cut < whole.size(); cut += 7) {
    tests::write_file(dir / "y", whole.substr(0, cut));
    CHECK(code_of([&] { data::TokenFile file(dir / "y"); }) == 3);
  }
}

TEST_CASE("token file: the hash of a split is pinned") {
  const auto hash = [](std::uint64_t seed, std::initializer_list<std::string_view> pieces) {
    data::SplitHash h(seed);
    for (const auto piece : pieces) h.update(piece);
    return h.value();
  };
  CHECK(hash(1, {"数学"}) == hash(1, {"\xE6", "\x95\xB0", "学"}));
  CHECK(hash(1, {"数学"}) != hash(2, {"数学"}));
  // FNV-1a between two splitmix64 finalizers, computed by a separate program in Python.
  CHECK(hash(1, {"数学"}) == 0xed9d35e37b46d07au);
  CHECK(hash(2, {""}) == 0xfb709004716aa61cu);
  int below = 0;
  for (int i = 0; i < 10'000; ++i) below += hash(7, {std::to_string(i)}) < (kHalf >> 3);  // 1 in 16: 625
  CHECK(below > 525);
  CHECK(below < 725);
}
