// Names of the files that lie beside a checkpoint.
#pragma once
#include <filesystem>
#include <string>

namespace tools {

// ckpt.bin + ".best.bin" -> ckpt.best.bin
inline std::filesystem::path beside(const std::filesystem::path& checkpoint, const std::string& ending) {
  std::filesystem::path path = checkpoint;
  if (path.extension() == ".bin") path.replace_extension();
  return path += ending;
}

}  // namespace tools
