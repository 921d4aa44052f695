#include "tools/checkpoint_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <vector>

#include "engine/durable_file.h"

namespace tools {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kStepDigits = 8;  // at least

// The step of `name` if it is one of the checkpoint's history.
std::optional<std::int64_t> step_of(std::string_view name, const fs::path& checkpoint) {
  const std::string start = beside(checkpoint, ".").filename().string();
  constexpr std::string_view kEnd = ".bin";
  if (name.size() < start.size() + kStepDigits + kEnd.size() || !name.starts_with(start) ||
      !name.ends_with(kEnd))
    return std::nullopt;
  const std::string_view digits = name.substr(start.size(), name.size() - start.size() - kEnd.size());
  std::int64_t step = 0;
  const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (error != std::errc{} || stop != digits.data() + digits.size() || step < 0) return std::nullopt;
  return step;
}

std::vector<std::string> names_beside(const fs::path& checkpoint) {
  std::vector<std::string> names;
  std::error_code ignored;
  const fs::path folder = checkpoint.has_parent_path() ? checkpoint.parent_path() : fs::path(".");
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    names.push_back(entry.path().filename().string());
  return names;
}

}  // namespace

fs::path beside(const fs::path& checkpoint, const std::string& ending) {
  fs::path path = checkpoint;
  if (path.extension() == ".bin") path.replace_extension();
  return path += ending;
}

fs::path numbered(const fs::path& checkpoint, std::int64_t step) {
  return beside(checkpoint, fmt::format(".{:0{}}.bin", step, kStepDigits));
}

void prune_history(const fs::path& checkpoint, std::int64_t count, std::int64_t through) {
  std::vector<std::int64_t> steps;
  for (const auto& name : names_beside(checkpoint))
    if (const auto step = step_of(name, checkpoint); step && *step <= through) steps.push_back(*step);
  std::sort(steps.begin(), steps.end(), std::greater{});
  std::error_code ignored;  // a file that cannot be removed is in nobody's way
  for (std::size_t i = std::size_t(count); i < steps.size(); i++)
    fs::remove(numbered(checkpoint, steps[i]), ignored);
}

void remove_left_overs_of_run(const fs::path& checkpoint) {
  std::set<fs::path> outputs{checkpoint, beside(checkpoint, ".best.bin")};
  for (const auto& name : names_beside(checkpoint)) {
    const std::string output = name.substr(0, name.rfind(".tmp."));
    if (const auto step = step_of(output, checkpoint)) outputs.insert(numbered(checkpoint, *step));
  }
  for (const auto& output : outputs) engine::remove_left_overs(output);
}

}  // namespace tools
