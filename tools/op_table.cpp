#include "tools/op_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace tools {

std::string op_table(const std::map<std::string_view, engine::Profile::Total>& ops, std::int64_t steps,
                     double step_seconds, const Ceilings* ceilings) {
  std::vector<std::pair<std::string_view, engine::Profile::Total>> rows(ops.begin(), ops.end());
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  std::string table = fmt::format("{:<30} {:>6} {:>9} {:>9} {:>7} {:>9} {:>7}", "op", "calls", "ms",
                                  "us/call", "% step", "GFLOP/s", "GB/s");
  table += ceilings ? fmt::format(" {:>7} {:>7}\n", "% gemm", "% mem") : "\n";
  for (const auto& [name, total] : rows) {
    const double rate = total.cost.flops / total.seconds, traffic = total.cost.bytes / total.seconds;
    table +=
        fmt::format("{:<30} {:>6} {:>9.3f} {:>9.1f} {:>7.1f} {:>9.1f} {:>7.1f}", name, total.launches / steps,
                    1e3 * total.seconds / double(steps), 1e6 * total.seconds / double(total.launches),
                    100 * total.seconds / double(steps) / step_seconds, rate / 1e9, traffic / 1e9);
    table += ceilings ? fmt::format(" {:>7.1f} {:>7.1f}\n", 100 * rate / ceilings->flops,
                                    100 * traffic / ceilings->bytes)
                      : "\n";
  }
  return table;
}

}  // namespace tools
