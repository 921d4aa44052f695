// The exit code of a refusal, and its line.
#pragma once
#include <doctest/doctest.h>

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

// The line with which run() refuses what is called FILE, with exit code 4; "taken" if it does not.
inline std::string refusal_of_file(const std::function<void()>& run) {
  std::string what;
  const int code = code_of(run, &what);
  if (code == 0) return "taken";
  CHECK(code == static_cast<int>(engine::Exit::checkpoint));
  CHECK(what.starts_with("FILE: "));
  CHECK(what.find('\n') == what.npos);
  return what;
}

}  // namespace tests
