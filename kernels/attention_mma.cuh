// Private to the CUDA attention kernels: the bodies that use tensor cores, for bf16 and the usual sizes. Each
// says whether it takes an op; what none takes runs on the general ones. Values inside a sequence are finite.
#pragma once
#include "kernels/attention.h"

namespace k {

bool takes_mma(const CompressPairForward&) noexcept;
bool takes_mma(const CompressPairBackward&) noexcept;
bool takes_mma(const CompressedForward&) noexcept;
bool takes_mma(const CompressedBackward&) noexcept;
bool takes_mma(const SelectedForward&) noexcept;
bool takes_mma(const SelectedBackward&) noexcept;
bool takes_mma(const WindowForward&) noexcept;
bool takes_mma(const WindowBackward&) noexcept;
Status run_mma(Cuda, const CompressPairForward&) noexcept;
Status run_mma(Cuda, const CompressPairBackward&) noexcept;
Status run_mma(Cuda, const CompressedForward&) noexcept;
Status run_mma(Cuda, const CompressedBackward&) noexcept;
Status run_mma(Cuda, const SelectedForward&) noexcept;
Status run_mma(Cuda, const SelectedBackward&) noexcept;
Status run_mma(Cuda, const WindowForward&) noexcept;
Status run_mma(Cuda, const WindowBackward&) noexcept;

}  // namespace k
