// What the tests of one kernel on a card share.
#pragma once
#include <span>

#include "tests/op_case.h"
#include "tests/support.h"

namespace tests {

using Floats = std::vector<float>;

// Bounds on relative_error() of one kernel with bf16 storage. One rounding is off by up to 2^-8, 0.0017 in
// the 2-norm; a kernel rounds its result and at most a few things on the way there.
inline constexpr double kBf16ForwardBound = 5e-3, kBf16GradientBound = 1e-2;

inline const engine::Device kCard{engine::DeviceKind::cuda, 0};

inline bool no_card(const char* test) {
  return lacks(test, engine::cuda_device_count() == 0, "there is no card");
}

// The same bits in a second run; in a third, `sum`, gradients (the last results) were added to `starts`.
inline void check_again_and_added(const std::vector<Floats>& got, const std::vector<Floats>& again,
                                  const std::vector<Floats>& sum, std::span<const Doubles* const> starts) {
  for (std::size_t i = 0; i < got.size(); i++) {
    CAPTURE(i);
    CHECK(same_bits(got[i], again[i]));
    const std::size_t first = got.size() - starts.size();
    if (i < first) continue;
    Doubles total = *starts[i - first];
    for (std::size_t e = 0; e < total.size(); e++) total[e] += double(got[i][e]);
    CHECK(relative_error(sum[i], total) < kBf16ForwardBound);
  }
}

}  // namespace tests
