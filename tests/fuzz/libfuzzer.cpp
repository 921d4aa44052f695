// libFuzzer's entry: runs the target that $FUZZ_TARGET names.
#include <cstdio>
#include <cstdlib>

#include "tests/fuzz/targets.h"

namespace {

bool (*chosen_target())(tests::fuzz::Bytes) {
  const char* name = std::getenv("FUZZ_TARGET");
  for (const auto& target : tests::fuzz::kTargets)
    if (name != nullptr && target.name == name) return target.run;
  std::fputs("FUZZ_TARGET: expected the name of a target; use make fuzz TARGET=NAME\n", stderr);
  std::exit(2);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* bytes, std::size_t size) {
  static const auto target = chosen_target();
  target(std::as_bytes(std::span(bytes, size)));
  return 0;
}
