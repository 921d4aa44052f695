// inspect as a program.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/sha256.h"
#include "data/token_file.h"
#include "data/wordpiece.h"
#include "engine/container.h"
#include "tests/support.h"

namespace {

namespace fs = std::filesystem;
using tests::Ran;

Ran inspect(const std::string& arguments) {
  return tests::run_command(tests::program("inspect") + " " + arguments);
}

std::string quoted(const fs::path& path) { return "'" + path.string() + "'"; }

void write_tokens(const fs::path& path) {
  const data::WordPiece tokenizer({"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"}, {}, "test");
  data::TokenFileWriter out(path, tokenizer, false, {data::Split::Rule::tail, 0.5});
  for (const std::uint32_t id : {5u, 6u}) {
    out.add(std::vector<std::uint32_t>{id, id}, 2);
    out.end_document(id);
  }
  out.finish({"off", "", "15", "test", "{}", "test"});
}

}  // namespace

TEST_CASE("inspect: ids") {
  tests::TempDir dir;
  write_tokens(dir / "x");
  const std::string file = quoted(dir / "x");
  CHECK(inspect("ids " + file + " --from 0 --count 3").out == "5 5 3\n");
  CHECK(inspect("ids " + file + " --from 2 --count 100").out == "3 6 6 3\n");
  CHECK(inspect("ids " + file + " --from 7 --count 100").out == "\n");
  CHECK(inspect("ids " + file + " --from 0 --count 3").err == "");
}

TEST_CASE("inspect: info and its hash") {
  tests::TempDir dir;
  write_tokens(dir / "x");
  const Ran ran = inspect("info " + quoted(dir / "x") + " --hash");
  CHECK(ran.code == 0);
  CHECK(ran.out.find("validation_from          3\n") != std::string::npos);
  CHECK(ran.out.find("U16 [6]") != std::string::npos);
  const engine::ContainerReader file(dir / "x");
  std::string all;
  for (const char* name : {"documents", "tokenizer", "tokens", "tokens_crc32"}) {
    const auto bytes = file.find(name)->bytes;
    all.append(name).append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  CHECK(ran.out.ends_with("\nsha256 " + data::sha256_hex(all) + "\n"));
}

TEST_CASE("inspect: verify finds a changed byte") {
  tests::TempDir dir;
  write_tokens(dir / "tokens");
  const std::vector<float> values = {1, 2, 3};
  const auto bytes = std::as_bytes(std::span(values));
  engine::ContainerWriter checkpoint;
  checkpoint.set("format", "nsa-checkpoint/1");
  checkpoint.set("crc32", nlohmann::json{{"w", engine::crc32_of(bytes)}}.dump());
  checkpoint.add("w", engine::FileType::f32, {3}, bytes);
  checkpoint.save(dir / "checkpoint");
  for (const auto& [name, code] : {std::pair("tokens", 3), std::pair("checkpoint", 4)}) {
    CAPTURE(name);
    const Ran good = inspect("verify " + quoted(dir / name));
    CHECK(good.code == 0);
    CHECK(good.out.find(": ok") != std::string::npos);
    std::string changed = tests::read_file(dir / name);
    // The tensor that comes last in the file is the vocabulary; tokens lie before it.
    const std::size_t at =
        name == std::string("tokens")
            ? static_cast<std::size_t>(changed.find(std::string_view("\x05\0\x05\0\x03\0", 6)))
            : changed.size() - 1;
    REQUIRE(at < changed.size());
    changed[at] = static_cast<char>(changed[at] ^ 1);
    tests::write_file(dir / "changed", changed);
    const Ran bad = inspect("verify " + quoted(dir / "changed"));
    tests::check_one_line(bad, "inspect", code, {"CRC-32"});
    tests::write_file(dir / "changed", changed.substr(0, changed.size() - 2));
    CHECK(inspect("verify " + quoted(dir / "changed")).code == code);
    CHECK(inspect("info " + quoted(dir / "changed")).code == code);
  }
}

TEST_CASE("inspect: verify finds a changed vocabulary, info shows no control bytes") {
  tests::TempDir dir;
  write_tokens(dir / "x");
  std::string changed = tests::read_file(dir / "x");
  REQUIRE(changed.back() == 'b');  // the last token of the vocabulary, the last tensor of the file
  changed.back() = 'c';
  tests::write_file(dir / "x", changed);
  const Ran bad = inspect("verify " + quoted(dir / "x"));
  tests::check_one_line(bad, "inspect", 3, {"SHA-256"});

  engine::ContainerWriter hostile;
  hostile.set("note", "\x1b[2Jone\ntwo");
  hostile.save(dir / "hostile");
  const Ran shown = inspect("info " + quoted(dir / "hostile"));
  CHECK(shown.code == 0);
  CHECK(shown.out.find("\\x1b[2Jone\\ntwo\n") != std::string::npos);
  CHECK(shown.out.find('\x1b') == std::string::npos);
}

TEST_CASE("inspect: usage and bad files") {
  tests::TempDir dir;
  write_tokens(dir / "x");
  tests::write_file(dir / "empty", "");
  tests::write_file(dir / "text", "no container at all, only text\n");
  const std::string file = quoted(dir / "x");
  const std::pair<std::string, int> rows[] = {
      {"", 2},
      {"look " + file, 2},
      {"ids " + file, 2},
      {"ids " + file + " --count x", 2},
      {"ids " + file + " --cont 3", 2},
      {"info", 2},
      {"info " + quoted(dir / "none"), 3},
      {"info " + quoted(dir.path()), 3},
      {"info " + quoted(dir / "empty"), 3},
      {"verify " + quoted(dir / "text"), 3},
      {"ids " + quoted(dir / "text") + " --count 1", 3},
  };
  for (const auto& [arguments, code] : rows) {
    CAPTURE(arguments);
    const Ran ran = inspect(arguments);
    tests::check_one_line(ran, "inspect", code, {});
    CHECK(ran.out == "");
  }
}
