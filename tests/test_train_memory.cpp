#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/support.h"
#include "tests/trained_model.h"

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kOwnMemoryOnly = false;  // a sanitizer keeps memory of its own
#else
constexpr bool kOwnMemoryOnly = true;
#endif

namespace {

// MiB of the row "in all" of the memory table.
double planned(const std::string& out) {
  const auto row = out.find("in all");
  REQUIRE(row != out.npos);
  return std::stod(out.substr(row + 6));
}

}  // namespace

TEST_CASE("train memory: the peak is within 5 % of the printed plan, with evaluation, samples and saving" *
          doctest::skip(tests::lacks("train memory: the peak is within 5 % of the printed plan, with "
                                     "evaluation, samples and saving",
                                     !kOwnMemoryOnly, "a sanitizer takes memory of its own"))) {
  const auto& model = tests::TrainedModel::get();
  const tests::TempDir folder;
  const std::string out = (folder / "m.bin").string();
  // Large in parameters, small in work: the table of a vocabulary is most of it.
  const std::string flags =
      " --preset tiny --layers 2 --width 1024 --heads 16 --head-dim 64 --ffn 4096 -b 1 --accum 1 -t 40 -x 3 "
      "-n 1 -v 1 --eval-tokens 100 -s 1 --warmup 1 ";
  const tests::Ran ran =
      tests::run_command(tests::program("train_gpt") + flags + "-d " + model.data() + " -o '" + out + "'");
  CAPTURE(ran.err);
  REQUIRE(ran.code == 0);
  std::istringstream log(tests::read_file(folder / "m.log.jsonl"));
  double peak = 0;
  for (std::string line; std::getline(log, line);)
    peak = std::max(peak, 1024 * nlohmann::json::parse(line).value("mem_gb", 0.));
  const double plan = planned(ran.out);
  CHECK(plan > 300);
  CHECK(peak > 0.95 * plan);
  CHECK(peak < 1.05 * plan);
}
