#include "tools/precision.h"

#include "engine/error.h"

namespace tools {

engine::DType compute_type(const std::string& dtype, engine::Device device) {
  const bool fast = engine::has_fast_bf16(device);
  engine::require(dtype != "bf16" || fast || device.kind == engine::DeviceKind::cpu, engine::Exit::usage,
                  "--dtype bf16: {} has no tensor cores for it (sm_80 and newer have); use --dtype fp32",
                  engine::device_name(device));
  return fast && dtype != "fp32" ? engine::DType::bf16 : engine::DType::f32;
}

std::string describe_precision(const std::string& dtype, engine::Device device) {
  if (compute_type(dtype, device) == engine::DType::bf16)
    return dtype == "auto" ? "bf16 (the card has tensor cores for it)" : "bf16";
  if (dtype == "fp32") return "fp32";
  return device.kind == engine::DeviceKind::cpu ? "fp32 (the CPU computes in fp32)"
                                                : "fp32 (the card has no fast bf16)";
}

}  // namespace tools
