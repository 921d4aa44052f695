// One case of a golden folder (numbers of the PyTorch reference): its model, inputs and expected results.
#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "model/config.h"

namespace tests {

struct GoldenTensor {
  std::vector<std::int64_t> shape;
  std::vector<double> values;
};

struct GoldenCase {
  std::string name;
  std::string unsupported;  // why this case cannot run, or empty
  model::GptConfig config;
  std::int64_t batch = 0, length = 0;
  std::vector<std::int32_t> ids, targets;         // [batch * length]
  std::map<std::string, GoldenTensor> params;     // under the names of model::Gpt
  std::map<std::string, GoldenTensor> gradients;  // of trained parameters, likewise
  GoldenTensor logits, loss, selected;            // selected: of layer 0, empty without sparse attention
};

// The names in the folder's manifest.json. Throws if there is none.
std::vector<std::string> golden_names(const std::filesystem::path& folder);
GoldenCase read_golden(const std::filesystem::path& folder, const std::string& name);

}  // namespace tests
