// Zstandard and xz data: what their libraries pack comes back; files that are cut or damaged.
#include <algorithm>
#include <cstring>

#include "data/byte_source.h"
#include "engine/error.h"
#include "tests/string_source.h"
#include "tests/support.h"
#if __has_include(<zstd.h>)
#include <zstd.h>
#endif
#if __has_include(<lzma.h>)
#include <lzma.h>
#endif

namespace {

using Unpack = std::unique_ptr<data::ByteSource> (*)(std::unique_ptr<data::ByteSource>, std::string);

struct Got {
  std::string text, error;
};

// With the text that came before an error.
Got unpacked(Unpack unpack, const std::string& bytes, std::size_t piece = 1 << 20,
             std::size_t room = 1 << 16) {
  Got got;
  try {
    const auto source = unpack(std::make_unique<tests::StringSource>(bytes, piece), "FILE");
    tests::read_all(*source, got.text, room);
  } catch (const engine::Error& error) {
    got.error = error.what();
    CHECK(error.code == engine::Exit::data);
    CHECK(got.error.starts_with("FILE"));
    CHECK(got.error.find('\n') == std::string::npos);
  }
  return got;
}

#if __has_include(<zstd.h>) || __has_include(<lzma.h>)

std::string lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "第" + std::to_string(i * i) + "行 line\n";
  return text;
}

// `first` and `second` are `text` and "end\n" packed.
void check(Unpack unpack, const std::string& text, const std::string& first, const std::string& second) {
  const std::string whole = first + second;
  for (const std::size_t piece : {std::size_t{1}, std::size_t{77}, std::size_t{1} << 20})
    for (const std::size_t room : {1, 100, 1 << 16}) {
      const Got got = unpacked(unpack, whole, piece, room);
      CHECK(got.error == "");
      CHECK(got.text == text + "end\n");
    }
  for (std::size_t cut = 1; cut < whole.size(); cut += cut + 20 < first.size() ? 97 : 1) {
    CAPTURE(cut);
    const Got got = unpacked(unpack, whole.substr(0, cut));
    if (cut == first.size()) CHECK(got.error == "");
    else CHECK(got.error.find("data end early, at byte " + std::to_string(cut)) != std::string::npos);
    CHECK((text + "end\n").starts_with(got.text));
  }
  std::string damaged = whole;
  damaged[first.size() / 2] = static_cast<char>(damaged[first.size() / 2] ^ 0x10);
  CHECK(unpacked(unpack, damaged).error.find("data are damaged at byte ") != std::string::npos);
  CHECK(unpacked(unpack, first + "no more of it").error.find("damaged") != std::string::npos);
}

// prepare takes the file whatever its name, and stops in one line where it is cut.
void check_prepare(const std::string& text, const std::string& packed) {
  tests::TempDir dir;
  const auto run = [&](const std::string& bytes) {
    tests::write_file(dir / "x.txt", bytes);
    return tests::run_command(tests::program("prepare") + " '" + (dir / "x.txt").string() +
                              "' --raw --text --t2s off --quiet -o '" + (dir / "out").string() + "'");
  };
  CHECK(run(packed).code == 0);
  CHECK(tests::read_file(dir / "out") == text);
  std::filesystem::remove(dir / "out");
  tests::check_one_line(run(packed.substr(0, packed.size() / 2)), "prepare", 3,
                        {"x.txt", "end early, at byte " + std::to_string(packed.size() / 2)});
  CHECK(!std::filesystem::exists(dir / "out"));
}

#endif

}  // namespace

#if __has_include(<zstd.h>)
namespace {
std::string zstd(const std::string& text) {  // a frame with a checksum
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  const std::size_t size = ZSTD_compress2(context, packed.data(), packed.size(), text.data(), text.size());
  ZSTD_freeCCtx(context);
  REQUIRE(ZSTD_isError(size) == 0);
  packed.resize(size);
  return packed;
}
}  // namespace

TEST_CASE("zstd: frames, cut and damaged data") {
  const std::string text = lines(5000);
  check(data::unzstd, text, zstd(text), zstd("end\n"));
  check_prepare(text, zstd(text));
}
#else
TEST_CASE("zstd: a build without the library says what to do") {
  CHECK(unpacked(data::unzstd, "").error.find("zstd -dc FILE | prepare -") != std::string::npos);
}
#endif

#if __has_include(<lzma.h>)
namespace {
std::string xz(const std::string& text) {  // a stream with a checksum
  std::string packed(lzma_stream_buffer_bound(text.size()), '\0');
  std::size_t size = 0;
  REQUIRE(lzma_easy_buffer_encode(
              6, LZMA_CHECK_CRC64, nullptr, reinterpret_cast<const std::uint8_t*>(text.data()), text.size(),
              reinterpret_cast<std::uint8_t*>(packed.data()), &size, packed.size()) == LZMA_OK);
  packed.resize(size);
  return packed;
}
}  // namespace

TEST_CASE("xz: streams, cut and damaged data") {
  const std::string text = lines(5000);
  check(data::unxz, text, xz(text), xz("end\n"));
  CHECK(unpacked(data::unxz, xz("a") + std::string(4, '\0') + xz("b")).text == "ab");  // padded
  check_prepare(text, xz(text));
}
#else
TEST_CASE("xz: a build without the library says what to do") {
  CHECK(unpacked(data::unxz, "").error.find("xz -dc FILE | prepare -") != std::string::npos);
}
#endif
