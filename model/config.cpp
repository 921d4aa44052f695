#include "model/config.h"

#include "engine/error.h"
#include "engine/json_fields.h"

namespace model {
namespace {

using engine::Exit;
using engine::fail;
using engine::require;
using nlohmann::json;

void in_range(const char* field, std::int64_t value, std::int64_t low, std::int64_t high) {
  require(value >= low && value <= high, Exit::usage, "model: {} {} is not from {} to {}", field, value, low,
          high);
}

std::string_view name_of(Attention a) { return a == Attention::nsa ? "nsa" : "dense"; }
std::string_view name_of(FfnKind f) { return f == FfnKind::gelu ? "gelu" : "swiglu"; }

GptConfig tiny() {
  GptConfig c;
  c.layers = 4, c.width = 128, c.ffn = 512, c.context = 128;
  c.heads = {.query = 4, .kv = 4, .dim = 32};
  return c;
}

GptConfig gpt2_124m() {
  GptConfig c;
  c.vocab = 50257, c.layers = 12, c.width = 768, c.ffn = 3072, c.context = 1024;
  c.heads = {.query = 12, .kv = 12, .dim = 64};
  c.attention = Attention::dense;
  c.bias = false, c.tied = true;
  return c;
}

}  // namespace

void GptConfig::validate() const {
  constexpr std::int64_t kMany = 1 << 20;
  in_range("vocabulary", vocab, 1, std::int64_t(1) << 31);
  in_range("layers", layers, 1, 4096);
  in_range("width", width, 1, kMany);
  in_range("ffn", ffn, 1, 16 * kMany);
  in_range("seq-len", context, 1, std::int64_t(1) << 30);
  in_range("heads", heads.query, 1, 4096);
  in_range("kv-heads", heads.kv, 1, 4096);
  in_range("head-dim", heads.dim, 2, 1024);
  require(heads.dim % 2 == 0, Exit::usage, "model: head-dim {} is odd; rotary positions need an even one",
          heads.dim);
  require(heads.query % heads.kv == 0, Exit::usage, "model: {} heads do not divide among {} kv-heads",
          heads.query, heads.kv);
  require(rope_base > 1 && rope_base <= 1e12f, Exit::usage, "model: rope-theta {} is not from 1 to 1e12",
          rope_base);
  if (attention == Attention::dense) return;
  in_range("block", nsa.block, 1, 4096);
  in_range("select", nsa.select, 0, 1024);
  in_range("window", nsa.window, 0, kMany);
  in_range("memory", nsa.memory, 1, 4096);
}

std::string to_json(const GptConfig& c) {
  json j{{"vocab", c.vocab},
         {"layers", c.layers},
         {"width", c.width},
         {"ffn", c.ffn},
         {"ffn_kind", name_of(c.ffn_kind)},
         {"context", c.context},
         {"heads", c.heads.query},
         {"kv_heads", c.heads.kv},
         {"head_dim", c.heads.dim},
         {"rope_theta", c.rope_base},
         {"attention", name_of(c.attention)},
         {"bias", c.bias},
         {"tied", c.tied}};
  if (c.attention == Attention::nsa)
    j["nsa"] = {{"rules", "seed"},        {"block", c.nsa.block},   {"select", c.nsa.select},
                {"window", c.nsa.window}, {"memory", c.nsa.memory}, {"diff_topk", c.nsa.diff_topk}};
  return j.dump();
}

GptConfig config_from_json(std::string_view text, const std::string& where) {
  GptConfig c;
  try {
    const json j = engine::parse_json(text, where);
    const auto read = [&where](const json& from, const char* name, auto& value) {
      engine::read_field(from, name, value, where);
    };
    read(j, "vocab", c.vocab);
    read(j, "layers", c.layers);
    read(j, "width", c.width);
    read(j, "ffn", c.ffn);
    read(j, "context", c.context);
    read(j, "heads", c.heads.query);
    read(j, "kv_heads", c.heads.kv);
    read(j, "head_dim", c.heads.dim);
    read(j, "rope_theta", c.rope_base);
    read(j, "bias", c.bias);
    read(j, "tied", c.tied);
    const std::string ffn = j.at("ffn_kind"), attention = j.at("attention");
    require(ffn == "gelu" || ffn == "swiglu", Exit::checkpoint, "{}: unknown ffn_kind '{}'", where, ffn);
    require(attention == "nsa" || attention == "dense", Exit::checkpoint, "{}: unknown attention '{}'", where,
            attention);
    c.ffn_kind = ffn == "gelu" ? FfnKind::gelu : FfnKind::swiglu;
    c.attention = attention == "nsa" ? Attention::nsa : Attention::dense;
    if (c.attention == Attention::nsa) {
      const json& n = j.at("nsa");
      const std::string rules = n.at("rules");
      require(rules == "seed", Exit::checkpoint, "{}: unknown sparse attention rules '{}'", where, rules);
      read(n, "block", c.nsa.block);
      read(n, "select", c.nsa.select);
      read(n, "window", c.nsa.window);
      read(n, "memory", c.nsa.memory);
      read(n, "diff_topk", c.nsa.diff_topk);
    }
    c.validate();
  } catch (const json::exception& e) {
    fail(Exit::checkpoint, "{}: the model's configuration is damaged: {}", where, e.what());
  } catch (const engine::Error& e) {
    if (e.code == Exit::checkpoint) throw;
    fail(Exit::checkpoint, "{}: {}", where, e.what());
  }
  return c;
}

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all{
      {"tiny", "4 layers of 128, sparse attention; minutes on a CPU", tiny(), 8, 1},
      {"seed", "the reference model: 6 layers of 512, sparse attention", GptConfig{}, 4, 4},
      {"gpt2-124m", "12 layers of 768, dense attention, tied head", gpt2_124m(), 64, 8},
  };
  return all;
}

const Preset& find_preset(std::string_view name) {
  std::string names;
  for (const auto& preset : presets()) {
    if (preset.name == name) return preset;
    names += (names.empty() ? "" : ", ") + std::string(preset.name);
  }
  fail(Exit::usage, "--preset {}: expected one of {}", name, names);
}

}  // namespace model
