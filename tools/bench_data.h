// `bench data`: how fast text becomes tokens, stage by stage (docs/reference.md, "bench").
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace tools {

struct BenchDataOptions {
  std::vector<std::string> inputs;         // files, folders, "-"; none: a dump made here
  std::string vocab;                       // a vocab.txt; empty: a char vocabulary trained on the text
  std::int64_t bytes = 200 * 1000 * 1000;  // unpacked; the input is repeated until it has them
  std::int64_t threads = 1;                // of the last row
  std::int64_t repeats = 3;                // the best of so many counts
};

// Prints a table to stdout. Works in a temporary folder that is gone afterwards; needs about five times
// `bytes` of memory and twice of disk. Throws what data::prepare() throws.
void bench_data(const BenchDataOptions&);

}  // namespace tools
