// The JSON header of a safetensors file: text to fields and back. Private to the container.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

struct ContainerHeader {
  struct Tensor {
    std::string name, dtype;
    std::vector<std::uint64_t> shape;
    std::uint64_t begin = 0, end = 0;  // data_offsets
  };
  std::map<std::string, std::string> metadata;
  std::vector<Tensor> tensors;
};

// Returns what is wrong, naming the byte of the header where that is known; empty when all is well.
std::string parse_container_header(std::string_view text, ContainerHeader& header);
// Padded with blanks so that 8 + its length is a multiple of 64.
std::string print_container_header(const ContainerHeader& header);

}  // namespace engine
