// The rows of `bench data` for pages-articles dumps: wikitext, bzip2, and the way from a packed dump to
// tokens.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "data/interrupt.h"

namespace tools {

struct BenchPages {
  std::string_view pages;    // a dump, unpacked
  std::string folder;        // for files
  std::string tokenizer;     // a tokenizer file
  std::uint64_t bytes = 0;   // the dump is packed once and repeated until it has them
  std::int64_t threads = 1;  // of the last row
  std::int64_t repeats = 1;
  double copy = 0;  // memcpy's rate in MB/s
};

// Prints the rows. Those of bzip2 need libbz2 for comparison; without it one line says so.
void bench_pages(const BenchPages&, const data::Interrupt&);

}  // namespace tools
