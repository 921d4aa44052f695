#include "model/config.h"

#include "tests/fuzz/support.h"

namespace tests::fuzz {

bool model_config(Bytes bytes) {
  model::GptConfig config;
  if (!taken([&] { config = model::config_from_json(text_of(bytes), "FILE"); })) return false;
  hold(taken([&] { config.validate(); }), "valid");
  hold(model::config_from_json(model::to_json(config), "FILE") == config, "the same after writing");
  return true;
}

}  // namespace tests::fuzz
