// What a model computes in: the flag --dtype.
#pragma once
#include <string>

#include "engine/tensor.h"

namespace tools {

// `dtype` is auto, fp32 or bf16. auto: bf16 on a card that is fast at it. The CPU's kernels know fp32 only.
// Throws Error(usage) for bf16 on a card without tensor cores for it.
engine::DType compute_type(const std::string& dtype, engine::Device);
// compute_type() and why, as a person reads it: "fp32 (the CPU computes in fp32)".
std::string describe_precision(const std::string& dtype, engine::Device);

}  // namespace tools
