#include "tests/changed_container.h"

#include <span>

#include "engine/container.h"

namespace tests {

void copy_changed(const std::filesystem::path& from, const std::filesystem::path& to,
                  const std::function<void(ContainerParts&)>& change) {
  const engine::ContainerReader file(from);
  ContainerParts parts{.metadata = file.metadata(), .tensors = {}};
  for (const auto& entry : file.entries())
    parts.tensors[entry.name] = {reinterpret_cast<const char*>(entry.bytes.data()), entry.bytes.size()};
  change(parts);
  engine::ContainerWriter out;
  for (const auto& [key, value] : parts.metadata) out.set(key, value);
  for (const auto& entry : file.entries())
    out.add(entry.name, entry.type, entry.shape, std::as_bytes(std::span(parts.tensors.at(entry.name))));
  out.save(to);
}

}  // namespace tests
