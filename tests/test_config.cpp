// What a GPT is made of: presets, parameter names and counts, the configuration in checkpoints.
#include "model/config.h"

#include <map>
#include <nlohmann/json.hpp>

#include "model/gpt.h"
#include "tests/support.h"

namespace {

using engine::Exit;
using engine::Shape;
using model::GptConfig;
using nlohmann::json;

engine::ParamStore parameters(const GptConfig& config) {
  engine::ParamStore store(engine::Device{}, engine::DType::f32);
  const model::Gpt gpt(config, store);
  return store;
}

template <class F> void check_error(Exit code, const std::string& mentions, F f) {
  try {
    f();
    FAIL_CHECK("taken, expected: ", mentions);
  } catch (const engine::Error& error) {
    const std::string what = error.what();
    CAPTURE(what);
    CHECK(error.code == code);
    CHECK(what.find(mentions) != what.npos);
    CHECK(what.find('\n') == what.npos);
  }
}

}  // namespace

TEST_CASE("presets: the reference model's parameters under their names (docs/model.md 1.4)") {
  const GptConfig& config = model::find_preset("seed").config;
  std::map<std::string, Shape> expected{
      {"token_emb.weight", {21128, 512}}, {"norm.weight", {512}}, {"to_logits.weight", {21128, 512}}};
  for (const char* i : {"0", "1", "2", "3", "4", "5"}) {
    const std::string attention = std::string("layers.") + i + ".0.",
                      ffn = std::string("layers.") + i + ".1.";
    expected[attention + "norm.weight"] = {512};
    expected[attention + "to_qkv.weight"] = {1536, 512};
    expected[attention + "compress_mem_kv"] = {2, 8, 4, 64};
    for (const char* kv : {"k", "v"}) {
      expected[attention + kv + "_intrablock_positions"] = {8, 16, 64};
      expected[attention + kv + "_compress.1.weight"] = {512, 64, 16};
      expected[attention + kv + "_compress.1.bias"] = {512};
    }
    expected[attention + "to_strategy_combine.0.weight"] = {24, 512};
    expected[attention + "to_strategy_combine.0.bias"] = {24};
    expected[attention + "combine_heads.weight"] = {512, 512};
    expected[ffn + "0.weight"] = {512};
    expected[ffn + "1.weight"] = {2048, 512};
    expected[ffn + "1.bias"] = {2048};
    expected[ffn + "3.weight"] = {512, 2048};
    expected[ffn + "3.bias"] = {512};
  }
  const auto store = parameters(config);
  CHECK(store.trained_scalars() == 47'025'808);
  std::map<std::string, Shape> shapes;
  for (const auto& p : store.all()) shapes[p.name] = p.file_shape;
  CHECK(shapes.size() == store.all().size());
  CHECK(shapes == expected);
  for (const auto& p : store.all()) {
    CAPTURE(p.name);
    const bool table = p.name == "token_emb.weight" || p.name == "to_logits.weight";
    CHECK(p.memory_shape[0] == (table ? 21184 : p.file_shape[0]));  // 331 x 64 rows
  }
}

TEST_CASE("presets: sizes of the others, and what they train with") {
  CHECK(parameters(model::find_preset("gpt2-124m").config).trained_scalars() ==
        50257 * 768 + 12 * (12 * 768 * 768 + 2 * 768) + 768);
  const auto& seed = model::find_preset("seed");
  CHECK(seed.batch == 4);
  CHECK(seed.accumulation == 4);
  CHECK(seed.config.context == 256);
  const auto& tiny = model::find_preset("tiny");
  CHECK(tiny.config.heads == engine::Heads{.query = 4, .kv = 4, .dim = 32});
  CHECK(tiny.config.nsa == seed.config.nsa);
  check_error(Exit::usage, "--preset huge: expected one of tiny, seed, gpt2-124m",
              [] { model::find_preset("huge"); });
}

TEST_CASE("config: JSON and back") {
  for (const auto& preset : model::presets()) {
    CAPTURE(preset.name);
    CHECK(model::config_from_json(model::to_json(preset.config), "FILE") == preset.config);
  }
  GptConfig c;
  c.vocab = 101, c.layers = 2, c.width = 24, c.ffn = 40, c.context = 99;
  c.heads = {.query = 6, .kv = 3, .dim = 8};
  c.nsa = {.block = 5, .select = 0, .window = 7, .memory = 2, .diff_topk = true};
  c.ffn_kind = model::FfnKind::swiglu;
  c.bias = false, c.tied = true, c.rope_base = 12345.5f;
  CHECK(model::config_from_json(model::to_json(c), "FILE") == c);
  CHECK(!(c == GptConfig{}));
}

TEST_CASE("config: a damaged one is refused, naming the file and the field") {
  const json good = json::parse(model::to_json(GptConfig{}));
  const auto refused = [](const json& j, const std::string& mentions) {
    check_error(Exit::checkpoint, mentions, [&] { model::config_from_json(j.dump(), "FILE"); });
    check_error(Exit::checkpoint, "FILE: ", [&] { model::config_from_json(j.dump(), "FILE"); });
  };
  for (const auto& [field, unused] : good.items()) {
    json j = good;
    j.erase(field);
    refused(j, field);
    j[field] = json::array();
    refused(j, "damaged");
  }
  const auto with = [&](const char* field, const json& value) {
    json j = good;
    j[json::json_pointer(field)] = value;
    return j;
  };
  refused(with("/layers", 0), "layers 0");
  refused(with("/layers", 6.5), "layers is 6.5, expected a whole number");
  refused(with("/layers", 1e300), "layers is 1e+300, expected a whole number");
  refused(with("/heads", std::uint64_t(1) << 63), "heads is 9223372036854775808");
  refused(with("/rope_theta", 1e300), "rope_theta is 1e+300");
  refused(with("/nsa/rules", json::parse(std::string(20, '[') + std::string(20, ']'))), "nested");
  refused(with("/width", -1), "width -1");
  refused(with("/vocab", std::int64_t(1) << 40), "vocabulary");
  refused(with("/head_dim", 63), "head-dim 63 is odd");
  refused(with("/kv_heads", 3), "8 heads do not divide among 3");
  refused(with("/rope_theta", 0), "rope-theta");
  refused(with("/attention", "linear"), "unknown attention 'linear'");
  refused(with("/ffn_kind", "relu"), "unknown ffn_kind 'relu'");
  refused(with("/nsa/rules", "paper"), "'paper'");
  refused(with("/nsa/block", 0), "block 0");
  refused(with("/nsa/memory", 0), "memory 0");
  refused(with("/nsa/window", "wide"), "damaged");
  check_error(Exit::checkpoint, "FILE: ", [] { model::config_from_json("{", "FILE"); });
  check_error(Exit::checkpoint, "FILE: ", [] { model::config_from_json("[]", "FILE"); });
  GptConfig bad;
  bad.heads.dim = 7;
  check_error(Exit::usage, "head-dim 7", [&] { bad.validate(); });
}
