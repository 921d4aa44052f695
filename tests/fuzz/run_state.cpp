#include "tests/fuzz/support.h"
#include "tools/train_state.h"

namespace tests::fuzz {

bool run_state(Bytes bytes) {
  tools::SavedState saved;
  if (!taken([&] { saved = tools::saved_state_from_json(text_of(bytes), "FILE"); })) return false;
  const std::string written = tools::to_json(saved);
  hold(tools::to_json(tools::saved_state_from_json(written, "FILE")) == written, "the same after writing");
  return true;
}

}  // namespace tests::fuzz
