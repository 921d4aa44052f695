#include "tools/bench_pages.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <vector>

#include "data/byte_source.h"
#include "data/prepare.h"
#include "data/wikitext.h"
#include "data/xml_text.h"
#include "engine/durable_file.h"
#include "tools/bench_rate.h"
#include "tools/console.h"
#if __has_include(<bzlib.h>)
#include <bzlib.h>
#endif

namespace tools {
namespace {

void row(std::string_view stage, double rate, double ceiling, std::string_view of) {
  print("{:<32}{:>9.1f}  {:.3f} of {}\n", stage, rate, rate / ceiling, of);
}

std::vector<std::string> sources_of(std::string_view pages) {
  std::vector<std::string> sources;
  for (std::size_t at = 0; (at = pages.find("<text", at)) != pages.npos;) {
    const std::size_t begin = std::min(pages.find('>', at), pages.size() - 1) + 1;
    const std::size_t end = std::min(pages.find("</text>", begin), pages.size());
    data::decode_xml(pages.substr(begin, end - begin), sources.emplace_back());
    at = end;
  }
  return sources;
}

void clean(const BenchPages& bench, const data::Interrupt& interrupt) {
  const std::vector<std::string> sources = sources_of(bench.pages);
  std::uint64_t bytes = 0;
  for (const std::string& source : sources) bytes += source.size();
  std::string text;
  const double rate = best_rate(bytes, bench.repeats, interrupt, [&] {
    data::WikitextCleaner cleaner(data::Variant::simplified);
    for (const std::string& source : sources) {
      text.clear();
      cleaner.push(source, text);
      cleaner.finish(text);
    }
  });
  row("wikitext to text", rate, bench.copy, "memcpy");
}

#if __has_include(<bzlib.h>)
std::string packed(std::string_view text) {
  std::string out(text.size() + text.size() / 50 + 1000, '\0');
  auto size = static_cast<unsigned>(out.size());
  constexpr int kLevel = 9, kWork = 30;
  if (::BZ2_bzBuffToBuffCompress(out.data(), &size, const_cast<char*>(text.data()),
                                 static_cast<unsigned>(text.size()), kLevel, 0, kWork) != BZ_OK)
    throw std::logic_error("bench: libbz2 does not pack");
  out.resize(size);
  return out;
}

void unpack_by_libbz2(const std::string& bytes, std::size_t unpacked) {
  std::string text(unpacked, '\0');
  auto size = static_cast<unsigned>(unpacked);
  if (::BZ2_bzBuffToBuffDecompress(text.data(), &size, const_cast<char*>(bytes.data()),
                                   static_cast<unsigned>(bytes.size()), 0, 0) != BZ_OK ||
      size != unpacked)
    throw std::logic_error("bench: libbz2 gave back another text");
}

class MemorySource final : public data::ByteSource {
 public:
  explicit MemorySource(std::string_view bytes) : bytes_(bytes) {}
  std::size_t read(std::span<std::byte> into) override {
    const std::size_t count = std::min(into.size(), bytes_.size());
    std::memcpy(into.data(), bytes_.data(), count);
    bytes_.remove_prefix(count);
    return count;
  }

 private:
  std::string_view bytes_;
};

void unpack(const std::string& bytes, std::size_t unpacked) {
  const auto source = data::bunzip2(std::make_unique<MemorySource>(bytes), "the dump", 1, [](std::string) {});
  std::vector<std::byte> some(256 << 10);
  std::size_t size = 0;
  while (const std::size_t count = source->read(some)) size += count;
  if (size != unpacked) throw std::logic_error("bench: bzip2 data gave back another text");
}

void packed_rows(const BenchPages& bench, const data::Interrupt& interrupt) {
  const std::string bytes = packed(bench.pages);
  const std::size_t unpacked = bench.pages.size();
  const double libbz2 =
      best_rate(unpacked, bench.repeats, interrupt, [&] { unpack_by_libbz2(bytes, unpacked); });
  print("{:<32}{:>9.1f}  a ceiling\n", "libbz2", libbz2);
  row("bzip2 decode", best_rate(unpacked, bench.repeats, interrupt, [&] { unpack(bytes, unpacked); }), libbz2,
      "libbz2");
  const std::uint64_t times = (bench.bytes + unpacked - 1) / unpacked;
  const std::string file = bench.folder + "/pages.xml.bz2";
  engine::DurableFile out(file);
  for (std::uint64_t i = 0; i < times; ++i) out.write(std::as_bytes(std::span(bytes)));
  out.commit();
  std::vector<std::int64_t> counts{1};
  if (bench.threads > 1) counts.push_back(bench.threads);
  for (const std::int64_t threads : counts) {
    data::PrepareOptions options;
    options.inputs = {file};
    options.tokenizer = bench.tokenizer;
    options.keep_duplicates = true;  // the text repeats itself
    options.output = bench.folder + "/tokens.bin";
    options.threads = static_cast<int>(threads);
    const double rate =
        best_rate(unpacked * times, bench.repeats, interrupt, [&] { data::prepare(options, &interrupt); });
    row(fmt::format("prepare of .bz2, {} thread{}", threads, threads == 1 ? "" : "s"), rate,
        libbz2 * static_cast<double>(threads), fmt::format("libbz2 x {}", threads));
  }
}
#else
void packed_rows(const BenchPages&, const data::Interrupt&) {
  print("bzip2: not measured, since this was built without libbz2\n");
}
#endif

}  // namespace

void bench_pages(const BenchPages& bench, const data::Interrupt& interrupt) {
  clean(bench, interrupt);
  packed_rows(bench, interrupt);
}

}  // namespace tools
