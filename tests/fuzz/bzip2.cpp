#include "tests/fuzz/support.h"
#if __has_include(<bzlib.h>)
#include <bzlib.h>
#endif

namespace tests::fuzz {
namespace {

std::string unpacked(Bytes packed, int threads, std::size_t piece, std::size_t room, int* warnings) {
  const auto source = data::bunzip2(source_of(packed, piece), "FILE", threads, [&](std::string line) {
    hold_one_line(line);
    ++*warnings;
  });
  return read_from(*source, room);
}

#if __has_include(<bzlib.h>)
std::string packed_by_libbz2(std::string_view text, int level) {
  std::string out(text.size() + text.size() / 50 + 1000, '\0');
  auto size = static_cast<unsigned>(out.size());
  hold(::BZ2_bzBuffToBuffCompress(out.data(), &size, const_cast<char*>(text.data()),
                                  static_cast<unsigned>(text.size()), level, 0, 30) == BZ_OK,
       "libbz2 packs");
  out.resize(size);
  return out;
}

// The beginning of what libbz2 makes of the first stream.
std::string first_stream_by_libbz2(Bytes packed) {
  std::string text(kMostBytes, '\0');
  bz_stream stream{};
  hold(::BZ2_bzDecompressInit(&stream, 0, 0) == BZ_OK, "libbz2 starts");
  stream.next_in = reinterpret_cast<char*>(const_cast<std::byte*>(packed.data()));
  stream.avail_in = static_cast<unsigned>(packed.size());
  stream.next_out = text.data();
  stream.avail_out = static_cast<unsigned>(text.size());
  const int result = ::BZ2_bzDecompress(&stream);
  hold(result == BZ_STREAM_END || (result == BZ_OK && stream.avail_out == 0), "libbz2 takes it too");
  text.resize(text.size() - stream.avail_out);
  ::BZ2_bzDecompressEnd(&stream);
  return text;
}
#endif

}  // namespace

// Even first bytes: bzip2 data as they are. Odd ones, with libbz2: a text that it packs before, as two
// streams.
bool bzip2(Bytes bytes) {
  const Chosen chosen(bytes);
  int warnings = 0;
#if __has_include(<bzlib.h>)
  if (chosen.choice % 2 == 1) {
    const std::string_view text = text_of(chosen.rest);
    const std::size_t cut = text.size() * chosen.choice / 256;
    const std::string packed = packed_by_libbz2(text.substr(0, cut), 1 + chosen.choice % 9) +
                               packed_by_libbz2(text.substr(cut), 9) + std::string(chosen.choice % 3, '\0');
    hold(unpacked(bytes_of(packed), 1 + chosen.choice % 3, 1 + chosen.choice % 5, 1 + chosen.choice % 9,
                  &warnings) == text,
         "what was packed");
    hold(warnings == 0, "no warning");
    return true;
  }
#endif
  std::string whole, pieces;
  const bool ok = taken([&] { whole = unpacked(chosen.rest, 1, 1 << 16, 1 << 16, &warnings); });
  hold(warnings <= 1, "one warning at most");
  hold(taken([&] { pieces = unpacked(chosen.rest, 3, 1 + chosen.choice % 5, 4096, &warnings); }) == ok,
       "taken in pieces, or not, too");
  if (!ok) return false;
  hold(whole == pieces, "the same bytes for any threads and pieces");
#if __has_include(<bzlib.h>)
  hold(whole.starts_with(first_stream_by_libbz2(chosen.rest)), "as libbz2");
#endif
  return true;
}

}  // namespace tests::fuzz
