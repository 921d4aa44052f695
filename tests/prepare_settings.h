// Threads and buffer sizes under which prepare must give the same bytes.
#pragma once
#include "data/prepare.h"

namespace tests {

struct Setting {
  int threads;
  std::size_t window, part, block;
};
inline constexpr Setting kSettings[] = {{1, 256 << 10, 64 << 10, 256 << 10},
                                        {2, 1 << 20, 64 << 10, 256 << 10},
                                        {4, 4096, 2048, 3000},
                                        {3, 999, 777, 1}};

inline data::PrepareOptions with(data::PrepareOptions options, const Setting& setting) {
  options.threads = setting.threads;
  options.window_bytes = setting.window;
  options.part_bytes = setting.part;
  options.block_bytes = setting.block;
  return options;
}

}  // namespace tests
