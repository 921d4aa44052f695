// The time of a step, op by op.
#pragma once
#include <cstdint>
#include <string>

#include "engine/profile.h"

namespace tools {

struct Ceilings {       // what the device does at best, a second
  std::string product;  // what the first is of: sgemm, bf16 gemm
  double flops = 0, bytes = 0;
};

// A row for each op, the costliest first: launches, time and share of a step, rates. `ops` are totals of
// `steps` steps; the shares are of `step_seconds`. With ceilings the rates' shares of them, too.
std::string op_table(const std::map<std::string_view, engine::Profile::Total>& ops, std::int64_t steps,
                     double step_seconds, const Ceilings* ceilings);

}  // namespace tools
