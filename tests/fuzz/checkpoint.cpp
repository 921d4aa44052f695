#include "engine/checkpoint.h"

#include "tests/fuzz/support.h"

namespace tests::fuzz {
namespace {

struct SmallModel {
  SmallModel() : store(engine::Device{}, engine::DType::f32) {
    store.add("w", {2, 3}, engine::Init::normal(1));
    store.add("b", {1}, engine::Init::normal(1));
    store.seal(true);
    store.initialize(1, stream);
    optimizer = std::make_unique<engine::AdamW>(store, engine::AdamWConfig{});
  }
  engine::Stream stream{engine::Device{}};
  engine::ParamStore store;
  std::unique_ptr<engine::AdamW> optimizer;
};

}  // namespace

// Loads into a model of parameters w [2, 3] and b [1].
bool checkpoint(Bytes bytes) {
  static SmallModel model;
  const auto file = container_of(bytes);
  return taken([&] {
    const engine::Checkpoint checkpoint(file, "FILE");
    checkpoint.config();
    checkpoint.state();
    checkpoint.tokenizer();
    checkpoint.load(model.store, model.stream);
    for (const float value : model.store.values().to_host(model.stream))
      hold(value - value == 0, "finite parameters");
    if (checkpoint.has_optimizer()) checkpoint.load(*model.optimizer, model.store, model.stream);
    engine::verify_checksums(engine::ContainerReader(file, "FILE"));
  });
}

}  // namespace tests::fuzz
