#include "engine/container.h"

#include <set>

#include "tests/fuzz/support.h"

namespace tests::fuzz {

bool container(Bytes bytes) {
  const auto file = container_of(bytes);
  return taken([&] {
    const engine::ContainerReader reader(file, "FILE");
    std::set<std::string> names;
    const std::byte* next = nullptr;
    for (const auto& entry : reader.entries()) {
      hold(names.insert(entry.name).second, "each name once");
      hold(next == nullptr || entry.bytes.data() == next, "tensors without a hole or an overlap");
      next = entry.bytes.data() + entry.bytes.size();
      hold(reinterpret_cast<std::uintptr_t>(entry.bytes.data()) % engine::size_of(entry.type) == 0 ||
               entry.bytes.empty(),
           "aligned data");
      std::uint64_t values = 1;
      for (const std::uint64_t d : entry.shape) values *= d;  // the reader has checked that this fits
      hold(values == entry.numel() && values * engine::size_of(entry.type) == entry.bytes.size(),
           "shape x size = bytes");
      hold(reader.find(entry.name) == &entry, "found by its name");
      engine::crc32_of(entry.bytes);  // reads every byte
    }
    hold(next == nullptr || next == file.data() + file.size(), "tensors up to the end of the file");
    reader.require_format("nsa-tokens");
  });
}

}  // namespace tests::fuzz
