#include <cstring>
#include <limits>

#include "tests/fuzz/support.h"
#include "tools/cli.h"

namespace tests::fuzz {

// The first byte chooses the range; then the text.
bool numbers(Bytes bytes) {
  using Whole = std::numeric_limits<std::int64_t>;
  struct Range {
    std::int64_t low, high;
  };
  constexpr Range kRanges[] = {{Whole::min(), Whole::max()}, {0, std::int64_t{1} << 53}, {1, 4096}, {-1, 1}};
  const Chosen chosen(bytes);
  const Range& range = kRanges[chosen.choice % std::size(kRanges)];
  const std::int64_t low = range.low, high = range.high;
  const std::string text(text_of(chosen.rest));
  bool any = false;
  any |= taken([&] {
    const std::int64_t value = tools::parse_integer("--flag", text, low, high);
    hold(value >= low && value <= high, "a whole number in its range");
    hold(tools::parse_integer("--flag", std::to_string(value), low, high) == value, "the same once written");
  });
  any |= taken([&] {
    const std::int64_t value = tools::parse_size("--flag", text, low, high);
    hold(value >= low && value <= high, "a size in its range");
  });
  any |= taken([&] {
    const double value = tools::parse_real("--flag", text, double(low), double(high));
    hold(value >= double(low) && value <= double(high), "a number in its range");
  });
  return any;
}

}  // namespace tests::fuzz
