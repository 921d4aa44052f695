// The exit code of a refusal.
#pragma once
#include <functional>
#include <string>

#include "engine/error.h"

namespace tests {

// 0 if run() throws no Error; `message`, when given, receives its line.
inline int code_of(const std::function<void()>& run, std::string* message = nullptr) {
  try {
    run();
  } catch (const engine::Error& error) {
    if (message != nullptr) *message = error.what();
    return static_cast<int>(error.code);
  }
  return 0;
}

}  // namespace tests
