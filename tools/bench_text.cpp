#include "tools/bench_text.h"

#include <fmt/format.h>

#include <algorithm>
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

void append_escaped(std::string_view text, std::string& out) {
  for (const char c : text) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else out += c;
  }
}

// Markup at every few clauses, the kinds in turn.
std::string wikitext_of(std::string_view text) {
  constexpr std::string_view kComma = "，";
  const std::string_view title = text.substr(0, text.find('\n'));
  std::string out = fmt::format(
      "{{{{Infobox\n| name = {0}\n| date = {{{{birth date|1936|1|1}}}}\n| image = "
      "[[File:{0}.jpg|thumb|{0}]]\n}}}}\n"
      "'''{0}'''",
      title);
  for (std::size_t clause = 0; !text.empty(); ++clause) {
    const std::size_t end = std::min(text.find(kComma), text.size());
    const std::string_view words = text.substr(0, end);
    switch (clause % 12) {
      case 1: out += fmt::format("[[{}]]", words); break;
      case 4: out += fmt::format("[[{}|{}]]", title, words); break;
      case 6: out += fmt::format("'''{}'''", words); break;
      case 8:
        out += fmt::format("{}<ref name=\"r{}\">{{{{cite web|url=http://example.org/{}|title={}}}}}</ref>",
                           words, clause, clause, title);
        break;
      case 10: out += fmt::format("-{{zh-hans:{0};zh-hant:{0}}}-", words); break;
      case 11: out += fmt::format("{}\n== {} ==\n", words, title); break;
      default: out += words;
    }
    text.remove_prefix(end);
    if (text.empty()) break;
    out += kComma;
    text.remove_prefix(kComma.size());
  }
  return out += fmt::format("\n== 参考 ==\n{{{{reflist}}}}\n[[Category:{}]]", title);
}

}  // namespace

std::string make_pages_dump(std::span<const std::string_view> texts, std::size_t bytes) {
  std::string dump =
      "<mediawiki xml:lang=\"zh\">\n  <siteinfo>\n    <dbname>zhwiki</dbname>\n  </siteinfo>\n";
  for (std::size_t id = 1; id <= texts.size() && (id == 1 || dump.size() < bytes); ++id) {
    const std::string_view text = texts[id - 1];
    dump += "  <page>\n    <title>";
    append_escaped(text.substr(0, text.find('\n')), dump);
    dump +=
        fmt::format("</title>\n    <ns>0</ns>\n    <id>{0}</id>\n    <revision>\n      <id>{0}</id>\n", id);
    dump +=
        "      <model>wikitext</model>\n      <format>text/x-wiki</format>\n      <text "
        "xml:space=\"preserve\">";
    append_escaped(wikitext_of(text), dump);
    dump += "</text>\n    </revision>\n  </page>\n";
  }
  return dump += "</mediawiki>\n";
}

std::string make_abstract_dump(std::size_t bytes, std::uint64_t seed) {
  constexpr std::string_view kHead = "<feed>\n", kTail = "</feed>\n";
  Writer writer(seed);
  std::string dump(kHead);
  do dump += writer.document();
  while (dump.size() + kTail.size() < bytes);
  return dump += kTail;
}

}  // namespace tools
