// Stop texts: where a text in pieces ends, and how little of it is held back.
#include "tools/stop_strings.h"

#include <algorithm>
#include <random>

#include "engine/error.h"
#include "tests/support.h"

namespace {

using Stops = std::vector<std::string>;

// By the plainest search: the first place where one is complete, the longest of those there.
std::string naive(const std::string& text, const Stops& stops) {
  for (std::size_t end = 1; end <= text.size(); end++) {
    std::size_t longest = 0;
    for (const auto& stop : stops)
      if (std::string_view(text).substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
    if (longest > 0) return text.substr(0, end - longest);
  }
  return text;
}

// The longest end of `text` that one begins with.
std::size_t could_become(const std::string& text, const Stops& stops) {
  for (std::size_t size = text.size(); size > 0; size--)
    for (const auto& stop : stops)
      if (std::string_view(stop).starts_with(std::string_view(text).substr(text.size() - size))) return size;
  return 0;
}

}  // namespace

TEST_CASE("stop strings: as the plainest search over any pieces, holding back what could become one") {
  std::mt19937 bits(1);
  const auto below = [&bits](unsigned n) { return bits() % n; };
  const auto random_text = [&](std::size_t size, unsigned letters) {
    static const char* const kLetters[] = {"a", "b", "数", "敱", "\n"};
    std::string text;
    for (std::size_t i = 0; i < size; i++) text += kLetters[below(letters)];
    return text;
  };
  int stopped = 0;
  for (int round = 0; round < 3000; round++) {
    const unsigned letters = 2 + below(4);
    Stops stops;
    for (unsigned i = 0, count = 1 + below(4); i < count; i++)
      stops.push_back(random_text(1 + below(6), letters));
    const std::string text = random_text(below(60), letters), expected = naive(text, stops);
    CAPTURE(text);
    tools::StopStrings scanner(stops);
    std::string shown;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t size = std::min<std::size_t>(1 + below(9), text.size() - at);
      scanner.push(std::string_view(text).substr(at, size), shown);
      at += size;
      CHECK(scanner.stopped() == (naive(text.substr(0, at), stops).size() < at));
      if (scanner.stopped()) continue;
      CHECK(shown.size() == at - could_become(text.substr(0, at), stops));
    }
    stopped += scanner.stopped();
    scanner.finish(shown);
    CHECK(shown == expected);
  }
  CHECK(stopped > 500);
  CHECK(stopped < 2900);
}

TEST_CASE("stop strings: in linear time") {
  const std::string stop = std::string(2000, 'a') + "b";
  tools::StopStrings scanner({stop, std::string(1500, 'a') + "c"});
  std::string shown;
  const std::string piece(1000, 'a');
  for (int i = 0; i < 1000; i++) scanner.push(piece, shown);
  CHECK(shown.size() == 1000 * 1000 - 2000);
  scanner.push("b and more", shown);
  CHECK(scanner.stopped());
  CHECK(shown.size() == 1000 * 1000 - 2000);
}

TEST_CASE("stop strings: none, empty ones and bytes that are no UTF-8") {
  tools::StopStrings none({});
  std::string shown;
  none.push("数学", shown);
  CHECK(shown == "数学");
  for (const char* bad : {"", "\xe6\x95"}) {
    try {
      tools::StopStrings(Stops{bad});
      CHECK(false);
    } catch (const engine::Error& error) {
      CHECK(error.code == engine::Exit::usage);
    }
  }
}
