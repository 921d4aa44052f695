// Containers: what is written comes back, and every way a file can be damaged is refused with one line.
#include "engine/container.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "tests/support.h"

namespace {

using engine::ContainerReader;
using engine::ContainerWriter;
using engine::Exit;
using engine::FileType;
using tests::TempDir;

std::span<const std::byte> bytes_of(std::string_view s) { return std::as_bytes(std::span(s)); }

// A safetensors file by hand: length, header padded with blanks so that the data are aligned to 8, data.
std::string by_hand(std::string header, std::size_t data) {
  while (header.size() % 8) header += ' ';
  const std::uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), 8);
  file += header;
  for (std::size_t i = 0; i < data; i++) file += char(i);
  return file;
}

// What the reader says of bad bytes; "" if it takes them. `format`, when given, is required too.
std::string refusal(std::string_view file, Exit expected = Exit::data, std::string_view format = {}) {
  try {
    const ContainerReader reader(bytes_of(file), "FILE", expected);
    if (!format.empty()) reader.require_format(format);
  } catch (const engine::Error& error) {
    const std::string what = error.what();
    CHECK(error.code == expected);
    CHECK(what.starts_with("FILE: "));
    CHECK(what.find('\n') == what.npos);
    return what;
  }
  return {};
}

void check_refused(std::string_view file, const char* mentions) {
  const std::string what = refusal(file);
  CAPTURE(mentions);
  CAPTURE(what);
  CHECK(what.find(mentions) != what.npos);
}

std::string one_tensor(const char* dtype, const char* shape, const char* offsets) {
  return fmt::format(R"({{"t":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape, offsets);
}

// A small file of ours: two tensors and the metadata of a format.
std::string ours(const TempDir& folder, const char* format = "nsa-test/1") {
  ContainerWriter writer;
  writer.set("format", format);
  writer.set("quote", "\"header_crc32\":\"decoy\" 京\n\t\\");
  writer.add("b", FileType::u8, {3}, bytes_of("xyz"));
  writer.add("a", FileType::u16, {2, 1}, bytes_of("0123"));
  writer.save(folder / "ours");
  return tests::read_file(folder / "ours");
}

}  // namespace

TEST_CASE(
    "container: every dtype, scalars and empty tensors come back, largest elements first, then by name") {
  struct Case {
    const char *name, *dtype;
    FileType type;
    std::vector<std::uint64_t> shape;
    std::size_t bytes;
  };
  const std::vector<Case> in_order{
      {"c", "I64", FileType::i64, {2}, 16},     {"d", "F64", FileType::f64, {}, 8},
      {"e", "U64", FileType::u64, {1, 1}, 8},   {"a", "F32", FileType::f32, {3, 1, 3}, 36},
      {"f", "I32", FileType::i32, {1}, 4},      {"g", "U32", FileType::u32, {0, 7}, 0},
      {"b", "BF16", FileType::bf16, {3}, 6},    {"h", "U16", FileType::u16, {1}, 2},
      {"0", "BOOL", FileType::boolean, {1}, 1}, {"i", "U8", FileType::u8, {2, 3}, 6},
      {"j", "U8", FileType::u8, {0}, 0}};
  std::vector<std::string> data;
  for (std::size_t i = 0; i < in_order.size(); i++) data.emplace_back(in_order[i].bytes, char('A' + i));
  ContainerWriter writer;
  writer.set("key", "value 京");
  for (std::size_t k = 0; k < in_order.size(); k++) {
    const std::size_t i = (k * 4 + 3) % in_order.size();  // added in another order
    if (i % 2) {
      writer.add(in_order[i].name, in_order[i].type, in_order[i].shape, bytes_of(data[i]));
      continue;
    }
    writer.add(in_order[i].name, in_order[i].type, in_order[i].shape, [&, i](const auto& sink) {
      for (char c : data[i]) sink(bytes_of({&c, 1}));
    });
  }
  TempDir folder;
  writer.save(folder / "file");

  const std::string file = tests::read_file(folder / "file");
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  CHECK((8 + length) % 64 == 0);
  const auto header = nlohmann::json::parse(file.substr(8, length));
  CHECK(header.at("__metadata__") == nlohmann::json{{"key", "value 京"}});
  CHECK(header.size() == in_order.size() + 1);
  std::uint64_t at = 0;
  for (std::size_t i = 0; i < in_order.size(); i++) {
    const auto& entry = header.at(in_order[i].name);
    CHECK(entry.at("dtype") == in_order[i].dtype);
    CHECK(entry.at("shape") == nlohmann::json(in_order[i].shape));
    CHECK(entry.at("data_offsets") == nlohmann::json{at, at + in_order[i].bytes});
    CHECK(file.substr(8 + length + at, in_order[i].bytes) == data[i]);
    at += in_order[i].bytes;
  }
  CHECK(file.size() == 8 + length + at);

  const ContainerReader reader(folder / "file");
  CHECK(reader.metadata() == std::map<std::string, std::string>{{"key", "value 京"}});
  REQUIRE(reader.entries().size() == in_order.size());
  for (std::size_t i = 0; i < in_order.size(); i++) {
    const auto* entry = reader.find(in_order[i].name);
    REQUIRE(entry);
    CHECK(entry->type == in_order[i].type);
    CHECK(entry->shape == in_order[i].shape);
    CHECK(entry->numel() == in_order[i].bytes / engine::size_of(entry->type));
    CHECK(std::string(reinterpret_cast<const char*>(entry->bytes.data()), entry->bytes.size()) == data[i]);
    CHECK(reader.entries()[i].bytes.size() == in_order[i].bytes);
  }
  CHECK(!reader.find("absent"));
}

TEST_CASE("container: a file made by hand, as Python's safetensors lays it out") {
  const std::string file =
      by_hand(R"({"__metadata__":{"format":"pt"}, "y" : {"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
              R"("x":{"shape":[2,2],"data_offsets":[8,24],"dtype":"F32"},"none":{"dtype":"U8","shape":[4,0],)"
              R"("data_offsets":[24,24]}})",
              24);
  const ContainerReader reader(bytes_of(file), "FILE");
  CHECK(reader.meta("format") == "pt");
  REQUIRE(reader.entries().size() == 3);
  CHECK(reader.at("y", FileType::i64).as<std::int64_t>()[0] == 0x0706050403020100);
  const auto x = reader.at("x", FileType::f32).as<float>();
  REQUIRE(x.size() == 4);
  CHECK(std::memcmp(x.data(), "\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17", 16) == 0);
  CHECK(reader.find("none")->numel() == 0);
  CHECK(refusal(by_hand("{}", 0)) == "");
  CHECK_THROWS_WITH_AS(reader.meta("absent"), doctest::Contains("'absent'"), engine::Error);
  CHECK_THROWS_WITH_AS(reader.at("absent", FileType::u8), doctest::Contains("absent"), engine::Error);
  CHECK_THROWS_WITH_AS(reader.at("x", FileType::bf16), doctest::Contains("x is F32, expected BF16"),
                       engine::Error);
}

TEST_CASE("container: a file cut at any byte, or one byte too long, is refused") {
  TempDir folder;
  const std::string file = ours(folder);
  REQUIRE(refusal(file) == "");
  for (std::size_t size = 0; size < file.size(); size++) {
    CAPTURE(size);
    CHECK(refusal(std::string_view(file).substr(0, size), Exit::checkpoint) != "");
  }
  check_refused(file + "!", "1 bytes after its last tensor");
  check_refused("12345678", "byte 8");
  check_refused(std::string(7, '\0'), "7 bytes");
}

TEST_CASE("container: any flipped bit of the header is refused") {
  TempDir folder;
  const std::string file = ours(folder);
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  std::size_t taken = 0;
  for (std::size_t at = 0; at < 8 + length; at++)
    for (int bit = 0; bit < 8; bit++) {
      std::string damaged = file;
      damaged[at] = char(damaged[at] ^ (1 << bit));
      taken += refusal(damaged, Exit::data, "nsa-test").empty();
    }
  CHECK(taken == 0);
}

TEST_CASE("container: the checksum of the header") {
  TempDir folder;
  const std::string file = ours(folder);
  const ContainerReader reader(bytes_of(file), "FILE");
  CHECK(reader.meta("quote") == "\"header_crc32\":\"decoy\" 京\n\t\\");
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  std::string header = file.substr(8, length);
  const std::string& crc = reader.meta("header_crc32");
  header.replace(header.find(crc), 8, "00000000");
  CHECK(engine::crc32_hex(bytes_of(header)) == crc);
  std::string wrong = file;
  wrong.replace(wrong.find(crc), 8, "00000000");
  check_refused(wrong, "checksum");
  check_refused(by_hand(R"({"__metadata__":{"format":"nsa-test/1"}})", 0), "header_crc32");
  check_refused(by_hand(R"({"__metadata__":{"format":"nsa-test/1","header_crc32":"1"}})", 0), "header_crc32");
  CHECK(engine::crc32_of(bytes_of("123456789")) == 0xcbf43926);
  CHECK(engine::crc32_of(bytes_of("6789"), engine::crc32_of(bytes_of("12345"))) == 0xcbf43926);
  CHECK(engine::crc32_hex({}) == "00000000");
}

TEST_CASE("container: formats") {
  TempDir folder;
  CHECK(refusal(ours(folder), Exit::data, "nsa-test") == "");
  CHECK(refusal(ours(folder, "nsa-test/2"), Exit::checkpoint, "nsa-test").find("newer program") !=
        std::string::npos);
  for (const char* other :
       {"nsa-test/0", "nsa-test/", "nsa-test", "nsa-test/1x", "nsa-testing/2", "nsb-test/2", "nsa-tes/1"}) {
    CAPTURE(other);
    const std::string what = refusal(ours(folder, other), Exit::data, "nsa-test");
    CHECK(what.find(fmt::format("'{}', expected nsa-test/1", other)) != what.npos);
  }
  CHECK(refusal(by_hand("{}", 0), Exit::data, "nsa-test").find("no file of this project") !=
        std::string::npos);
}

TEST_CASE("container: headers that are no headers") {
  check_refused(by_hand("[]", 0), "byte 8");
  check_refused(by_hand(" {}", 0), "byte 8");
  for (std::uint64_t length :
       {std::uint64_t(0), std::uint64_t(1), std::uint64_t(100'000'001), ~std::uint64_t(0)}) {
    std::string file = by_hand("{}", 64);
    std::memcpy(file.data(), &length, 8);
    check_refused(file, "absurd");
  }
  std::string file = by_hand("{}", 64);
  file[0] = 100;
  check_refused(file, "truncated: the header ends at byte 108, the file at 80");
  check_refused(by_hand("{}}", 0), "no JSON at byte");
  check_refused(by_hand(R"({"a)", 0), "no JSON at byte");
  check_refused(by_hand("{\"\xff\":{}}", 0), "no JSON at byte");
  check_refused(by_hand(R"({"a":1})", 0), "a number where none belongs");
  check_refused(by_hand(R"({"a":null})", 0), "a null");
  check_refused(by_hand(R"({"a":true})", 0), "a truth value");
  check_refused(by_hand(R"({"a":"b"})", 0), "a string where none belongs");
  check_refused(by_hand(R"({"a":[]})", 0), "an array where none belongs");
  check_refused(by_hand(R"({"__metadata__":{"a":1}})", 0), "a number where none belongs");
  check_refused(by_hand(R"({"__metadata__":{"a":{}}})", 0), "an object where none belongs");
  check_refused(by_hand(R"({"__metadata__":{"a":"b","a":"b"}})", 0), "the name 'a' occurs twice");
  check_refused(by_hand(R"({"__metadata__":{},"__metadata__":{}})", 0), "'__metadata__' occurs twice");
  std::string deep = R"({"a":)";
  for (int i = 0; i < 200'000; i++) deep += "{\"a\":";
  check_refused(by_hand(deep, 0), "the unknown field 'a'");
}

TEST_CASE("container: tensors that are not described as they must be") {
  const std::string good = R"({"dtype":"U8","shape":[2],"data_offsets":[0,2]})";
  REQUIRE(refusal(by_hand(R"({"t":)" + good + "}", 2)) == "");
  check_refused(by_hand(R"({"t":)" + good + R"(,"t":)" + good + "}", 2), "the name 't' occurs twice");
  check_refused(by_hand(R"({"t":{}})", 0), "t needs dtype, shape and data_offsets");
  check_refused(by_hand(R"({"t":{"dtype":"U8","shape":[2]}})", 2), "t needs dtype, shape and data_offsets");
  check_refused(by_hand(R"({"t":{"dtype":"U8","dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 2),
                "'dtype' occurs");
  check_refused(by_hand(R"({"t":{"dtype":"U8","size":[2],"data_offsets":[0,2]}})", 2),
                "the unknown field 'size'");
  const auto check_tensor = [](const char* dtype, const char* shape, const char* offsets,
                               const char* mentions) {
    check_refused(by_hand(one_tensor(dtype, shape, offsets), 2), mentions);
  };
  check_tensor(R"("F8")", "[2]", "[0,2]", "t has the unknown dtype F8");
  check_tensor(R"("u8")", "[2]", "[0,2]", "t has the unknown dtype u8");
  check_tensor("8", "[2]", "[0,2]", "a number where none belongs");
  check_tensor(R"(["U8"])", "[2]", "[0,2]", "an array where none belongs");
  check_tensor(R"("U8")", "[-2]", "[0,2]", "a negative number");
  check_tensor(R"("U8")", "[2.0]", "[0,2]", "not whole");
  check_tensor(R"("U8")", "[18446744073709551616]", "[0,2]", "over 64 bits");
  check_tensor(R"("U8")", R"(["2"])", "[0,2]", "a string where none belongs");
  check_tensor(R"("U8")", "[[2]]", "[0,2]", "an array where none belongs");
  check_tensor(R"("U8")", "[{}]", "[0,2]", "an object where none belongs");
  check_tensor(R"("U8")", "2", "[0,2]", "a number where none belongs");
  check_tensor(R"("U8")", "[4294967296,4294967296]", "[0,0]", "more than any file");
  check_tensor(R"("U16")", "[9223372036854775809]", "[0,2]", "more than any file");
  check_tensor(R"("U8")", "[9223372036854775808]", "[0,9223372036854775808]", "more than any file");
  check_tensor(R"("U8")", "[9223372036854775807]", "[0,9223372036854775807]", "truncated");
  check_tensor(R"("U8")", "[3]", "[0,3]", "truncated");
  check_tensor(R"("U8")", "[3]", "[0,2]", "its shape needs 3 bytes");
  check_tensor(R"("U16")", "[2]", "[0,2]", "its shape needs 4 bytes");
  check_tensor(R"("U8")", "[2]", "[2,0]", "spans bytes 2..0");
  check_tensor(R"("U8")", "[2]", "[2]", "data_offsets that are not two numbers");
  check_tensor(R"("U8")", "[2]", "[0,1,2]", "data_offsets that are not two numbers");
  check_tensor(R"("U8")", "[2]", "[18446744073709551615,1]", "spans bytes");
  check_tensor(R"("U8")", "[1]", "[0,1]", "1 bytes after its last tensor");
  check_tensor(R"("U8")", "[1]", "[1,2]", "a hole or an overlap");
  std::string many = "[2";
  for (int i = 0; i < 64; i++) many += ",1";
  check_tensor(R"("U8")", (many + "]").c_str(), "[0,2]", "more than 64 dimensions");
}

TEST_CASE("container: spans that overlap, leave a hole or are not aligned to their elements") {
  const auto two = [](const char* first, const char* second, std::size_t data) {
    return by_hand(fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":{}}},)"
                               R"("b":{{"dtype":"I32","shape":[1],"data_offsets":{}}}}})",
                               first, second),
                   data);
  };
  CHECK(refusal(two("[0,4]", "[4,8]", 8)) == "");
  CHECK(refusal(two("[4,8]", "[0,4]", 8)) == "");
  check_refused(two("[0,4]", "[0,4]", 4), "a hole or an overlap");
  check_refused(two("[2,6]", "[0,4]", 8), "a hole or an overlap");
  check_refused(two("[0,4]", "[8,12]", 12), "a hole or an overlap");
  check_refused(two("[4,8]", "[8,12]", 12), "a hole or an overlap");
  check_refused(two("[0,4]", "[4,8]", 9), "after its last tensor");
  check_refused(two("[0,4]", "[3,7]", 8), "expected a multiple of 4");
  std::string odd = one_tensor(R"("F32")", "[1]", "[0,4]");
  while (odd.size() % 8 != 7) odd += ' ';
  const std::uint64_t length = odd.size();
  check_refused(std::string(reinterpret_cast<const char*>(&length), 8) + odd + "0123",
                "expected a multiple of 4");
}

TEST_CASE("container: files that are none") {
  TempDir folder;
  tests::write_file(folder / "empty", "");
  REQUIRE(mkfifo((folder / "fifo").c_str(), 0600) == 0);
  const auto check = [](const std::filesystem::path& path, const char* mentions) {
    CAPTURE(path);
    try {
      const ContainerReader reader(path, Exit::checkpoint);
      CHECK(false);
    } catch (const engine::Error& error) {
      const std::string what = error.what();
      CAPTURE(what);
      CHECK(error.code == Exit::checkpoint);
      CHECK(what.starts_with(path.string() + ": "));
      CHECK(what.find(mentions) != what.npos);
    }
  };
  check(folder / "absent", "cannot be opened: No such file");
  check(folder.path(), "is a folder");
  check(folder / "empty", "is empty");
  check(folder / "fifo", "not a regular file");
  check("/dev/null", "not a regular file");
}

TEST_CASE("container: a value that is known once the tensors are written") {
  TempDir folder;
  const auto write = [&](const std::string& longest) {
    ContainerWriter writer;
    writer.set("format", "nsa-test/1");
    std::string seen;
    writer.set_last("seen", longest, [&] { return "\"" + seen + "\""; });
    writer.add("a", FileType::u8, {3}, [&](const ContainerWriter::Sink& sink) {
      sink(bytes_of("xyz"));
      seen = "xyz";
    });
    writer.save(folder / "last");
  };
  write("\"......\"");
  const ContainerReader reader(folder / "last");
  CHECK(reader.meta("seen") == "\"xyz\"   ");
  CHECK(tests::read_file(folder / "last").ends_with("xyz"));
  CHECK_THROWS_AS(write("\"..\""), std::logic_error);
  CHECK(ContainerReader(folder / "last").meta("seen") == "\"xyz\"   ");
}

TEST_CASE("container: a producer that gives another size than it said leaves no file") {
  for (const char* given : {"", "xy", "wxyz"}) {
    TempDir folder;
    ContainerWriter writer;
    writer.add("t", FileType::u8, {3}, [given](const auto& sink) { sink(bytes_of(given)); });
    CHECK_THROWS_AS(writer.save(folder / "file"), std::logic_error);
    CHECK(std::filesystem::is_empty(folder.path()));
  }
  ContainerWriter writer;
  CHECK_THROWS_AS(writer.add("t", FileType::f64, {std::uint64_t(1) << 61}, bytes_of("")), std::logic_error);
}
