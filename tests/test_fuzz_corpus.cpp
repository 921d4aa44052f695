// Replays every kept input of the fuzz targets (docs/testing.md).
#include <algorithm>
#include <vector>

#include "tests/fuzz/targets.h"
#include "tests/support.h"

TEST_CASE("fuzz: the kept inputs of every target") {
  const auto corpus = tests::repository() / "tests" / "fuzz" / "corpus";
  for (const auto& target : tests::fuzz::kTargets) {
    CAPTURE(target.name);
    std::vector<std::filesystem::path> files;
    for (const auto& file : std::filesystem::directory_iterator(corpus / target.name)) files.push_back(file);
    std::sort(files.begin(), files.end());
    int taken = 0;
    for (const auto& file : files) {
      const std::string name = file.filename().string(), bytes = tests::read_file(file);
      CAPTURE(name);
      bool is_taken = false;
      CHECK_NOTHROW(is_taken = target.run(std::as_bytes(std::span(bytes.data(), bytes.size()))));
      if (name.starts_with("ok-")) CHECK(is_taken);
      if (name.starts_with("bad-")) CHECK_FALSE(is_taken);
      taken += is_taken;
    }
    CHECK(taken > 0);
  }
}
