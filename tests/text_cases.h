// What the tests of text share: packed files, hexadecimal bytes, tests that need OpenCC.
#pragma once
#include <zlib.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "data/t2s.h"
#include "engine/error.h"
#include "tests/support.h"

namespace tests {

inline std::string gunzip(const std::filesystem::path& path) {
  gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) throw std::runtime_error("tests: cannot read " + path.string());
  std::string text;
  std::vector<char> buffer(1 << 16);
  int got = 0;
  while ((got = gzread(file, buffer.data(), static_cast<unsigned>(buffer.size()))) > 0) {
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  gzclose(file);
  if (got < 0) throw std::runtime_error("tests: damaged " + path.string());
  return text;
}

inline std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

// For doctest's skip decorator: `version` is that of the dictionaries, empty for any.
inline bool lacks_opencc(const char* test, std::string_view version = {}) {
  try {
    const data::Converter converter("t2s");
    return lacks(test, !version.empty() && converter.opencc_version() != version,
                 "needs the dictionaries of OpenCC 1.1.6");
  } catch (const engine::Error&) {
    return lacks(test, true, "needs OpenCC's t2s");
  }
}

}  // namespace tests
