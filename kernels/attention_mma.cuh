// Private to the CUDA attention kernels: the bodies that use tensor cores, for bf16 and the usual sizes. Each
// says whether it takes an op; what none takes runs on the general ones. Values inside a sequence are finite.
#pragma once
#include "kernels/attention.h"

namespace k {

bool takes_mma(const CompressForward&) noexcept;
bool takes_mma(const CompressBackward&) noexcept;
Status run_mma(Cuda, const CompressForward&) noexcept;
Status run_mma(Cuda, const CompressBackward&) noexcept;

}  // namespace k
