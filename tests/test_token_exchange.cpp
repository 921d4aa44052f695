// Token files from and for other programs: bytes, documents, round trips, and what is refused.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "data/live_vocabulary.h"
#include "data/token_exchange.h"
#include "data/windows.h"
#include "data/wordpiece.h"
#include "engine/container.h"
#include "engine/error.h"
#include "tests/error_code.h"
#include "tests/support.h"

namespace {

using tests::code_of;

namespace fs = std::filesystem;
using data::TokenFormat;
using Ids = std::vector<std::uint32_t>;
using Starts = std::vector<std::uint64_t>;

// [SEP], which ends a document, is 3.
data::WordPiece vocabulary(std::uint32_t size) {
  std::vector<std::string> tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  while (tokens.size() < size) tokens.push_back(fmt::format("t{}", tokens.size()));
  return {std::move(tokens), data::BertRules{}, "test"};
}

template <class T> std::string as_text(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}
std::string narrow(const Ids& ids) { return as_text(std::vector<std::uint16_t>(ids.begin(), ids.end())); }

std::string llmc(std::uint32_t magic, std::uint32_t version, std::uint32_t count, const std::string& ids) {
  std::vector<std::uint32_t> header(256);
  header[0] = magic, header[1] = version, header[2] = count;
  return as_text(header) + ids;
}

// Documents {5, 6}, {7}, {8, 9, 10}, the last one for validation.
void write_tokens(const fs::path& path, const data::Tokenizer& tokenizer) {
  data::TokenFileWriter out(path, tokenizer, false, {data::Split::Rule::tail, 0.4});
  for (const Ids& ids : {Ids{5, 6}, Ids{7}, Ids{8, 9, 10}}) {
    out.add(ids, ids.size());
    out.end_document(0);
  }
  out.finish({});
}

std::string exported(const data::TokenFile& file, std::uint64_t from, std::uint64_t to, TokenFormat format) {
  const tests::TempDir dir;
  data::export_tokens(file, from, to, format, dir / "x", [] {});
  return tests::read_file(dir / "x");
}

// Imports `bytes` and returns the file's ids.
Ids imported(const fs::path& folder, const std::string& bytes, TokenFormat format,
             const data::Tokenizer& tokenizer, double share = 0) {
  tests::write_file(folder / "foreign", bytes);
  data::ForeignTokens tokens(folder / "foreign", format, tokenizer.size());
  data::import_tokens(tokens, tokenizer, folder / "imported", share, {}, [] {});
  const data::TokenFile file(folder / "imported");
  file.verify();
  std::vector<std::int32_t> ids(file.size());
  file.read(0, ids);
  return {ids.begin(), ids.end()};
}

Starts starts_of(const fs::path& path) {
  const data::TokenFile file(path);
  return {file.documents().begin(), file.documents().end()};
}

std::string quoted(const fs::path& path) { return "'" + path.string() + "'"; }

}  // namespace

TEST_CASE("token exchange: the bytes of each format") {
  const tests::TempDir dir;
  write_tokens(dir / "small", vocabulary(20));
  write_tokens(dir / "large", vocabulary(65537));
  const data::TokenFile small(dir / "small"), large(dir / "large");
  const Ids all = {5, 6, 3, 7, 3, 8, 9, 10, 3}, validation = {8, 9, 10, 3};
  REQUIRE(small.validation_from() == 5);
  CHECK(exported(small, 0, 9, TokenFormat::nanogpt) == narrow(all));
  CHECK(exported(small, 5, 9, TokenFormat::nanogpt) == narrow(validation));
  CHECK(exported(small, 0, 9, TokenFormat::llmc) == llmc(20240520, 1, 9, narrow(all)));
  CHECK(exported(large, 5, 9, TokenFormat::llmc) == llmc(20240801, 7, 4, as_text(validation)));
  // As numpy.save() writes it.
  const std::string npy = std::string("\x93NUMPY\1\0v\0", 10) +
                          "{'descr': '<u2', 'fortran_order': False, 'shape': (9,), }" + std::string(60, ' ') +
                          "\n";
  CHECK(npy.size() == 128);
  CHECK(exported(small, 0, 9, TokenFormat::npy) == npy + narrow(all));
  const std::string wide = exported(large, 0, 9, TokenFormat::npy);
  CHECK(wide.find("'<u4'") == 20);
  CHECK(wide.substr(128) == as_text(all));
  CHECK(code_of([&] { exported(large, 0, 9, TokenFormat::nanogpt); }) == 2);
}

TEST_CASE("token exchange: a file that numbers live tokens gives the whole vocabulary's ids") {
  const tests::TempDir dir;
  const data::LiveVocabulary live(std::make_unique<data::WordPiece>(vocabulary(400)),
                                  {0, 1, 2, 3, 4, 5, 6, 100, 200, 300, 399}, "test");
  write_tokens(dir / "live", live);
  CHECK(exported(data::TokenFile(dir / "live"), 0, 9, TokenFormat::nanogpt) ==
        narrow({5, 6, 3, 100, 3, 200, 300, 399, 3}));
}

TEST_CASE("token exchange: headers of large files") {
  constexpr std::uint64_t kTwo31 = std::uint64_t{1} << 31;
  const std::string most = data::header_of(TokenFormat::llmc, 2, kTwo31 - 1);
  CHECK(most == llmc(20240520, 1, 0x7FFFFFFF, ""));
  std::string message;
  CHECK(code_of([&] { data::header_of(TokenFormat::llmc, 2, kTwo31); }, &message) == 2);
  CHECK(message.find("2147483648 tokens") != std::string::npos);
  for (std::uint64_t count = 1; count < kTwo31 * kTwo31; count = count * 10 + 1) {  // any number of digits
    const std::string npy = data::header_of(TokenFormat::npy, 4, count);
    CHECK(npy.size() % 64 == 0);
    CHECK(npy.size() == 10u + static_cast<unsigned char>(npy[8]) + 256u * static_cast<unsigned char>(npy[9]));
    CHECK(npy.find(fmt::format("({},)", count)) != npy.npos);
    CHECK(npy.back() == '\n');
  }
  // Sparse files: a count of 32 bits holds the lower bits of what is there.
  const tests::TempDir dir;
  const auto opened = [&](std::uint32_t magic, std::uint32_t version, std::uint64_t count,
                          std::uint64_t tokens) {
    tests::write_file(dir / "x", llmc(magic, version, static_cast<std::uint32_t>(count), ""));
    fs::resize_file(dir / "x", 1024 + tokens * (version == 1 ? 2 : 4));
    return data::ForeignTokens(dir / "x", TokenFormat::llmc, 20).size();
  };
  for (const std::uint64_t tokens : {kTwo31 - 1, kTwo31, kTwo31 + 5, 2 * kTwo31 + 5}) {
    CAPTURE(tokens);
    CHECK(opened(20240520, 1, tokens, tokens) == tokens);
    CHECK(opened(20240801, 7, tokens, tokens) == tokens);
    CHECK(code_of([&] { opened(20240520, 1, tokens + 1, tokens); }) == 3);
  }
  CHECK(code_of([&] { opened(20240520, 1, 2 * kTwo31 + 5, 5 + kTwo31); }) == 3);
  tests::write_file(dir / "x", "");
  fs::resize_file(dir / "x", 2 * (kTwo31 + 5));
  CHECK(data::ForeignTokens(dir / "x", TokenFormat::nanogpt, 20).size() == kTwo31 + 5);
}

TEST_CASE("token exchange: documents end with end-of-text, no token is added") {
  const tests::TempDir dir;
  const auto tokenizer = vocabulary(20);
  const auto check = [&](const Ids& ids, const Starts& starts) {
    CHECK(imported(dir.path(), narrow(ids), TokenFormat::nanogpt, tokenizer) == ids);
    CHECK(starts_of(dir / "imported") == starts);
  };
  check({5, 6, 3, 7, 3}, {0, 3, 5});
  check({5, 6, 3, 7}, {0, 3, 4});           // a file that was cut in its last document
  check({3, 5, 6, 3, 7, 8}, {0, 1, 4, 6});  // end-of-text before each document
  check({5, 3, 3, 3}, {0, 2, 3, 4});
  check({3}, {0, 1});
  check({5}, {0, 1});
  // The validation part begins with a document.
  imported(dir.path(), narrow({5, 6, 3, 7, 3, 8, 8}), TokenFormat::nanogpt, tokenizer, 0.4);
  const data::TokenFile file(dir / "imported");
  CHECK(file.validation_from() == 5);
  CHECK(file.text_bytes_train() == 6);  // "t5", "t6", "t7"
  CHECK(file.text_bytes_validation() == 4);
}

TEST_CASE("token exchange: files longer than a buffer, with 16 and 32 bits") {
  const tests::TempDir dir;
  const auto small = vocabulary(20), large = vocabulary(70000);
  Ids ids(600'001);
  Starts starts = {0};
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = i % 100'003 == 100'002 ? 3 : 5 + i % 15;
  for (std::size_t i = 100'003; i < ids.size(); i += 100'003) starts.push_back(i);
  starts.push_back(ids.size());
  const std::uint32_t count = 600'001;
  CHECK(imported(dir.path(), llmc(20240520, 1, count, narrow(ids)), TokenFormat::llmc, small) == ids);
  CHECK(starts_of(dir / "imported") == starts);
  ids[300'000] = 69'999;
  CHECK(imported(dir.path(), llmc(20240801, 7, count, as_text(ids)), TokenFormat::llmc, large) == ids);
  CHECK(starts_of(dir / "imported") == starts);
  const data::TokenFile file(dir / "imported");
  CHECK(exported(file, 0, count, TokenFormat::llmc) == llmc(20240801, 7, count, as_text(ids)));
  // The offset of an id that no vocabulary of 20 has.
  std::string message;
  CHECK(
      code_of([&] { imported(dir.path(), llmc(20240801, 7, count, as_text(ids)), TokenFormat::llmc, small); },
              &message) == 3);
  CHECK(message.find("id 69999 of token 300000 at byte 1201024") != std::string::npos);
}

TEST_CASE("token exchange: a file that becomes shorter while it is read") {
  const tests::TempDir dir;
  tests::write_file(dir / "x", narrow(Ids(300'000, 5)));
  data::ForeignTokens tokens(dir / "x", TokenFormat::nanogpt, 20);
  CHECK(!tokens.next().empty());
  fs::resize_file(dir / "x", 540'000);
  std::string message;
  CHECK(code_of([&] { tokens.next(); }, &message) == 3);
  CHECK(message.find("ends at byte 540000") != std::string::npos);
}

TEST_CASE("token exchange: prepare, export and import give the same tokens and documents") {
  const tests::TempDir dir;
  tests::write_file(dir / "text", "ab 中国 abc\n\n中文 cab\n\nabba 国\n\nbaa\n");
  const auto run = [&](const std::string& program, const std::string& arguments) {
    const auto ran =
        tests::run_command("cd " + quoted(dir.path()) + " && " + tests::program(program) + " " + arguments);
    CAPTURE(ran.err);
    REQUIRE(ran.code == 0);
    return ran.out;
  };
  for (const std::string kind : {"bbpe", "char"}) {
    CAPTURE(kind);
    run("prepare", "text -o z.bin --t2s off --val 0.3 --vocab-size 260 --kind " + kind);
    run("tokenizer", "train text -o v.bin --t2s off --vocab-size 260 --kind " + kind);
    const data::TokenFile file(dir / "z.bin");
    REQUIRE(file.validation_from() < file.size());
    for (const std::string format : {"llmc", "nanogpt"}) {
      CAPTURE(format);
      run("inspect", "export " + format + " z.bin -o all --part all");
      run("inspect", "export " + format + " z.bin -o train");
      run("inspect", "export " + format + " z.bin -o validation --part validation");
      const std::size_t header = format == "llmc" ? 1024 : 0;
      CHECK(tests::read_file(dir / "train").substr(header) +
                tests::read_file(dir / "validation").substr(header) ==
            tests::read_file(dir / "all").substr(header));
      CHECK(fs::file_size(dir / "train") == header + 2 * file.validation_from());
      for (const std::string vocabulary : {"z.bin", "v.bin"}) {
        run("inspect", "import " + format + " all -o back --vocab " + vocabulary);
        const data::TokenFile back(dir / "back");
        CHECK(run("inspect", "ids back --count 1M") == run("inspect", "ids z.bin --count 1M"));
        CHECK(starts_of(dir / "back") == starts_of(dir / "z.bin"));
        CHECK(back.validation_from() == back.size());
        CHECK(back.vocab_sha256() == file.vocab_sha256());
        CHECK(back.container().meta("source") ==
              fmt::format("{} tokens, {} bytes", format, fs::file_size(dir / "all")));
        if (kind == "bbpe")  // it loses nothing, so its tokens tell how much text there was
          CHECK(back.text_bytes_train() == file.text_bytes_train() + file.text_bytes_validation());
        run("inspect", "verify back");
      }
    }
  }
}

TEST_CASE("token exchange: other programs see the whole vocabulary of live tokens, there and back") {
  const tests::TempDir dir;
  const data::LiveVocabulary live(std::make_unique<data::WordPiece>(vocabulary(1400)),
                                  {0, 1, 2, 3, 4, 5, 6, 100, 200, 300, 399}, "test");
  write_tokens(dir / "live", live);
  const auto run = [&](const std::string& arguments) {
    return tests::run_command("cd " + quoted(dir.path()) + " && " + tests::program("inspect") + " " +
                              arguments);
  };
  const auto exported = run("export nanogpt live -o ids --part all");
  CHECK(exported.err == "ids: 9 of 9 tokens (--part all), of a vocabulary of 1,400\n");
  REQUIRE(run("import nanogpt ids -o back --vocab live").code == 0);
  CHECK(run("ids back --count 9").out == "5 6 3 100 3 200 300 399 3\n");
  CHECK(data::TokenFile(dir / "back").vocab_size() == 1400);
}

TEST_CASE("token exchange: bad files, one line each") {
  const tests::TempDir dir;
  data::save_tokenizer(vocabulary(20), dir / "vocabulary");
  write_tokens(dir / "tokens", vocabulary(20));
  write_tokens(dir / "large", vocabulary(65537));
  engine::ContainerWriter checkpoint;
  const std::string payload = vocabulary(20).serialize();
  checkpoint.set("format", "nsa-checkpoint/1");
  checkpoint.add("tokenizer", engine::FileType::u8, {payload.size()}, std::as_bytes(std::span(payload)));
  checkpoint.save(dir / "checkpoint");
  const std::string ids = narrow({5, 6, 3}), good = llmc(20240520, 1, 3, ids);
  std::string swapped = good;
  for (int at = 0; at < 12; at += 4) std::reverse(swapped.begin() + at, swapped.begin() + at + 4);
  struct Row {
    std::string format, bytes;
    std::vector<std::string> words;
  };
  const Row rows[] = {
      {"llmc", "", {"empty"}},
      {"llmc", good.substr(0, 3), {"magic number"}},
      {"llmc", good.substr(0, 500), {"500 bytes", "1024", "truncated"}},
      {"llmc", good.substr(0, 1024), {"truncated"}},
      {"llmc", good.substr(0, good.size() - 1), {"3 tokens", "5 bytes", "truncated"}},
      {"llmc", good + "xy", {"3 tokens", "8 bytes", "damaged"}},
      {"llmc", llmc(20240520, 1, 0, ""), {"no tokens"}},
      {"llmc", llmc(20240520, 1, 0x80000003, ids), {"2147483651 tokens", "truncated"}},
      {"llmc", llmc(20240520, 3, 3, ids), {"version 3", "expected 1"}},
      {"llmc", llmc(20240326, 3, 3, ids), {"magic number 20240326", "20240520", "20240801"}},
      {"llmc", swapped, {"big-endian"}},
      {"llmc", "BIN.TOK\n" + good, {"llmq"}},
      {"llmc", tests::read_file(dir / "tokens"), {"safetensors"}},
      {"llmc", llmc(20240520, 1, 3, narrow({5, 20, 3})), {"id 20 of token 1 at byte 1026", "below 20"}},
      {"llmc", llmc(20240801, 7, 2, as_text(Ids{5, 0xFFFFFFFF})), {"id 4294967295 of token 1 at byte 1028"}},
      {"nanogpt", "", {"empty"}},
      {"nanogpt", ids + "x", {"7 bytes"}},
      {"nanogpt", good, {"import it as llmc"}},
      {"nanogpt", swapped, {"big-endian"}},
      {"nanogpt", tests::read_file(dir / "tokens"), {"safetensors"}},
      {"nanogpt", std::string("\x93NUMPY\1\0v\0", 10), {"NumPy"}},
      {"nanogpt", narrow({5, 6, 20}), {"id 20 of token 2 at byte 4", "below 20"}},
  };
  const auto refused = [&](const std::string& arguments, int code, const std::vector<std::string>& words) {
    CAPTURE(arguments);
    const auto ran =
        tests::run_command("cd " + quoted(dir.path()) + " && " + tests::program("inspect") + " " + arguments);
    tests::check_one_line(ran, "inspect", code, words);
    CHECK(ran.out == "");
    CHECK(!fs::exists(dir / "new"));
  };
  for (const Row& row : rows) {
    tests::write_file(dir / "foreign", row.bytes);
    refused("import " + row.format + " foreign --vocab vocabulary -o new", 3, row.words);
  }
  tests::write_file(dir / "foreign", ids);
  refused("import nanogpt foreign --vocab foreign -o new", 4, {"foreign"});
  refused("import nanogpt foreign --vocab vocabulary -o foreign", 2, {"foreign", "also an input"});
  refused("import nanogpt foreign --vocab vocabulary -o none/new", 7, {"none/new"});
  refused("import nanogpt foreign --vocab vocabulary --cased -o new", 2, {"--cased", "knows its rules"});
  refused("import nanogpt foreign --vocab vocabulary -o -", 2, {"-o -"});
  refused("export npy tokens -o -", 2, {"-o -"});
  CHECK(!fs::exists(dir / "-"));
  refused("import npy foreign --vocab vocabulary -o new", 2, {"FORMAT npy", "llmc|nanogpt"});
  refused("export llmc checkpoint -o new", 2, {"checkpoint", "token file"});
  refused("export llmc vocabulary -o new", 3, {"vocabulary"});
  refused("export nanogpt large -o new", 2, {"16 bits", "llmc or npy"});
  refused("export npy tokens -o tokens", 2, {"tokens", "also an input"});
  REQUIRE(tests::run_command("cd " + quoted(dir.path()) + " && " + tests::program("inspect") +
                             " import nanogpt foreign --vocab checkpoint -o one")
              .code == 0);
  refused("export npy one -o new --part validation", 3, {"validation part is empty"});
}

namespace {

// A token file of 2^31 + 100 ids, 0 but for the last 200, in memory that is never written and so takes none.
class LongTokenFile {
 public:
  static constexpr std::uint64_t kTokens = (std::uint64_t{1} << 31) + 100;

  LongTokenFile() {
    const std::string payload = vocabulary(20).serialize();
    const std::uint64_t crcs = (2 * kTokens + (1 << 20) - 1) >> 20;
    const std::uint64_t tokens_at = 16 + 4 * crcs, payload_at = tokens_at + 2 * kTokens;
    const auto tensor = [](const char* type, std::uint64_t size, std::uint64_t from, std::uint64_t to) {
      return fmt::format(R"({{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", type, size, from, to);
    };
    std::string header = fmt::format(
        R"({{"__metadata__":{{"format":"nsa-tokens/1","header_crc32":"00000000","vocab_size":"20",)"
        R"("end_of_text":"3","validation_from":"{}","text_bytes_train":"1","text_bytes_validation":"1"}},)"
        R"("documents":{},"tokens_crc32":{},"tokens":{},"tokenizer":{}}})",
        kTokens - 50, tensor("U64", 2, 0, 16), tensor("U32", crcs, 16, tokens_at),
        tensor("U16", kTokens, tokens_at, payload_at),
        tensor("U8", payload.size(), payload_at, payload_at + payload.size()));
    header.resize((header.size() + 8 + 63) / 64 * 64 - 8, ' ');
    const std::string crc = engine::crc32_hex(std::as_bytes(std::span(header)));
    header.replace(header.find("00000000"), 8, crc);

    size_ = 8 + header.size() + payload_at + payload.size();
    void* at =
        mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(at != MAP_FAILED);
    madvise(at, size_, MADV_HUGEPAGE);  // fewer page faults, where there are such pages
    bytes_ = static_cast<std::byte*>(at);
    const std::uint64_t length = header.size();
    std::memcpy(bytes_, &length, 8);
    std::memcpy(bytes_ + 8, header.data(), header.size());
    std::byte* data = bytes_ + 8 + header.size();
    std::memcpy(data + 8, &kTokens, 8);  // the document table: 0, N
    std::memcpy(data + payload_at, payload.data(), payload.size());
    tokens_ = reinterpret_cast<std::uint16_t*>(data + tokens_at);
    for (std::uint64_t i = kTokens - 200; i < kTokens; ++i) tokens_[i] = expected(i);
  }
  ~LongTokenFile() { munmap(bytes_, size_); }
  LongTokenFile(const LongTokenFile&) = delete;
  LongTokenFile& operator=(const LongTokenFile&) = delete;

  static std::uint16_t expected(std::uint64_t index) {
    return static_cast<std::uint16_t>(index < kTokens - 200 ? 0 : 1 + index % 17);
  }
  std::uint16_t& token(std::uint64_t index) { return tokens_[index]; }
  std::span<const std::byte> bytes() const { return {bytes_, size_}; }

 private:
  std::byte* bytes_ = nullptr;
  std::uint16_t* tokens_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace

TEST_CASE("token exchange: tokens and windows past 2^31, and each token checked") {
  LongTokenFile made;
  constexpr std::uint64_t kTokens = LongTokenFile::kTokens;
  {
    const data::TokenFile file(made.bytes(), "long");
    REQUIRE(file.size() == kTokens);
    std::vector<std::int32_t> ids(150);
    file.read(kTokens - 150, ids);
    for (std::size_t i = 0; i < ids.size(); ++i) CHECK(ids[i] == LongTokenFile::expected(kTokens - 150 + i));
    const data::Windows training(file, 0, kTokens - 50, 16), validation(file, kTokens - 50, kTokens, 16);
    CHECK(training.targets() == kTokens - 51);
    std::vector<std::int32_t> inputs(16), targets(16);
    const auto check_window = [&](const data::Windows& windows, std::uint64_t w, std::uint64_t from) {
      windows.read(w, inputs, targets);
      for (std::uint64_t i = 0; i < 16; ++i) {
        CHECK(inputs[i] == LongTokenFile::expected(from + i));
        CHECK(targets[i] == LongTokenFile::expected(from + i + 1));
      }
    };
    const std::uint64_t last = training.whole() - 1;
    CHECK(last * 16 > kTokens - 100);
    check_window(training, last, last * 16);
    check_window(training, last - 3, last * 16 - 48);
    check_window(validation, 2, kTokens - 50 + 32);
  }
  std::string message;
  made.token(kTokens - 1) = 20;
  CHECK(code_of([&] { data::TokenFile(made.bytes(), "long"); }, &message) == 3);
  CHECK(message.find("token 20 at index 2147483747") != std::string::npos);
}
