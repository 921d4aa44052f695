// Containers that say something else than their maker did.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <string>

namespace tests {

struct ContainerParts {
  std::map<std::string, std::string> metadata;
  std::map<std::string, std::string> tensors;  // bytes, whose number stays what it is
};
// Writes what `change` makes of the container `from` to `to`, with a header that is sound.
void copy_changed(const std::filesystem::path& from, const std::filesystem::path& to,
                  const std::function<void(ContainerParts&)>& change);

}  // namespace tests
