#include "tools/bench_text.h"

#include <fmt/format.h>

#include <cmath>
#include <iterator>
#include <string_view>

namespace tools {
namespace {

class Writer {
 public:
  explicit Writer(std::uint64_t seed) : state_(seed) {}

  std::string document() {
    const std::string title = han(2 + below(8));
    std::string out = fmt::format(
        "<doc>\n<title>Wikipedia：{}</title>\n<url>https://zh.wikipedia.org/wiki/{}", title, below(1u << 30));
    out += "</url>\n<abstract>";
    for (std::uint64_t clauses = 4 + below(40); clauses > 0; --clauses) {
      out += han(3 + below(14));
      const std::uint64_t kind = below(16);
      if (kind < 2) out += fmt::format("{}年", 1000 + below(1100));
      if (kind == 2) out += fmt::format(" {} ", latin(2 + below(8)));
      if (kind == 3) out += "&quot;" + han(3) + "&quot;";
      out += clauses > 1 && below(4) > 0 ? "，" : "。";
    }
    out += "</abstract>\n<links>\n";
    for (std::uint64_t links = below(4); links > 0; --links)
      fmt::format_to(std::back_inserter(out),
                     "<sublink linktype=\"nav\"><anchor>{}</anchor><link>https://zh.wikipedia.org/wiki/{}"
                     "</link></sublink>\n",
                     han(4), below(1u << 30));
    return out += "</links>\n</doc>\n";
  }

 private:
  std::uint64_t next() {  // splitmix64
    std::uint64_t x = state_ += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }
  std::uint64_t below(std::uint64_t end) { return (next() >> 32) * end >> 32; }  // end <= 2^32

  // Ranks by Zipf's law (the logarithm is uniform), scattered over the block of unified ideographs.
  std::string han(std::uint64_t characters) {
    constexpr std::uint64_t kFirst = 0x4E00, kBlock = 20'902, kRanks = 5'000, kStride = 4'673;
    std::string text;
    for (; characters > 0; --characters) {
      const double share = static_cast<double>(next() >> 11) / 9007199254740992.0;  // 2^53
      const auto rank = static_cast<std::uint64_t>(std::pow(static_cast<double>(kRanks), share));
      const std::uint64_t c = kFirst + rank * kStride % kBlock;
      text += static_cast<char>(0xE0 | c >> 12);
      text += static_cast<char>(0x80 | (c >> 6 & 0x3F));
      text += static_cast<char>(0x80 | (c & 0x3F));
    }
    return text;
  }

  std::string latin(std::uint64_t letters) {
    std::string text;
    for (; letters > 0; --letters) text += static_cast<char>('a' + below(26));
    return text;
  }

  std::uint64_t state_;
};

}  // namespace

std::string make_abstract_dump(std::size_t bytes, std::uint64_t seed) {
  constexpr std::string_view kHead = "<feed>\n", kTail = "</feed>\n";
  Writer writer(seed);
  std::string dump(kHead);
  do dump += writer.document();
  while (dump.size() + kTail.size() < bytes);
  return dump += kTail;
}

}  // namespace tools
