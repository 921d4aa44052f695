#include <zlib.h>

#include "tests/fuzz/support.h"

namespace tests::fuzz {
namespace {

std::string member(std::string_view text) {
  z_stream stream{};
  constexpr int kGzip = 16, kLeastMemory = 1;
  hold(::deflateInit2(&stream, 1, Z_DEFLATED, MAX_WBITS + kGzip, kLeastMemory, Z_DEFAULT_STRATEGY) == Z_OK,
       "zlib starts");
  std::string packed(::deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  hold(::deflate(&stream, Z_FINISH) == Z_STREAM_END, "zlib packs");
  packed.resize(packed.size() - stream.avail_out);
  ::deflateEnd(&stream);
  return packed;
}

std::string unpacked(Bytes packed, std::size_t piece, std::size_t room, int* warnings) {
  const auto source = data::gunzip(source_of(packed, piece), "FILE", [&](std::string line) {
    hold_one_line(line);
    ++*warnings;
  });
  return read_from(*source, room);
}

}  // namespace

// Even first bytes: gzip data as they are. Odd ones: a text that is packed, in two members, before.
bool gzip(Bytes bytes) {
  const Chosen chosen(bytes);
  int warnings = 0;
  if (chosen.choice % 2 == 1) {
    const std::string_view text = text_of(chosen.rest);
    const std::size_t cut = text.size() * chosen.choice / 256;
    const std::string packed =
        member(text.substr(0, cut)) + member(text.substr(cut)) + std::string(chosen.choice % 3, '\0');
    hold(unpacked(bytes_of(packed), 1 + chosen.choice % 5, 1 + chosen.choice % 9, &warnings) == text,
         "what was packed");
    hold(warnings == 0, "no warning");
    return true;
  }
  std::string whole, pieces;
  if (!taken([&] { whole = unpacked(chosen.rest, 1 << 16, 1 << 16, &warnings); })) return false;
  hold(warnings <= 1, "one warning at most");
  hold(taken([&] { pieces = unpacked(chosen.rest, 1 + chosen.choice % 5, 4096, &warnings); }),
       "taken in pieces too");
  hold(whole == pieces, "the same bytes for every size of pieces");
  return true;
}

}  // namespace tests::fuzz
