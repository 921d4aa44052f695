#include "tests/golden_case.h"

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "engine/container.h"
#include "tests/support.h"

namespace tests {
namespace {

using nlohmann::json;

template <class T> std::vector<double> widen(const engine::ContainerEntry& entry) {
  const auto values = entry.as<T>();
  return {values.begin(), values.end()};
}

GoldenTensor read(const engine::ContainerEntry& entry) {
  GoldenTensor t;
  t.shape.assign(entry.shape.begin(), entry.shape.end());
  switch (entry.type) {
    case engine::FileType::f32: t.values = widen<float>(entry); break;
    case engine::FileType::f64: t.values = widen<double>(entry); break;
    case engine::FileType::i32: t.values = widen<std::int32_t>(entry); break;
    case engine::FileType::i64: t.values = widen<std::int64_t>(entry); break;
    default: throw std::runtime_error("golden: unexpected dtype of " + entry.name);
  }
  return t;
}

// The dense reference keeps q, k and v apart and names the output to_out; ours are one matrix and
// combine_heads.
std::map<std::string, GoldenTensor> with_our_names(const std::map<std::string, GoldenTensor>& reference) {
  std::map<std::string, GoldenTensor> ours;
  for (const auto& [name, tensor] : reference) {
    if (name.ends_with(".freqs") || name.ends_with(".inv_freq")) continue;
    const auto dot = name.rfind('.', name.size() - std::string(".weight").size() - 1);
    const std::string stem = dot == name.npos ? "" : name.substr(0, dot + 1), leaf = name.substr(dot + 1);
    if (leaf == "to_out.weight") {
      ours[stem + "combine_heads.weight"] = tensor;
    } else if (leaf == "to_q.weight") {
      GoldenTensor& packed = ours[stem + "to_qkv.weight"] = tensor;
      for (const char* other : {"to_k.weight", "to_v.weight"}) {
        const auto& part = reference.at(stem + other);
        packed.shape[0] += part.shape[0];
        packed.values.insert(packed.values.end(), part.values.begin(), part.values.end());
      }
    } else if (leaf != "to_k.weight" && leaf != "to_v.weight") {
      ours[name] = tensor;
    }
  }
  return ours;
}

std::map<std::string, GoldenTensor> with_prefix(const engine::ContainerReader& file,
                                                const std::string& prefix) {
  std::map<std::string, GoldenTensor> found;
  for (const auto& entry : file.entries())
    if (entry.name.starts_with(prefix)) found[entry.name.substr(prefix.size())] = read(entry);
  return with_our_names(found);
}

model::GptConfig config_of(const json& m, std::int64_t length) {
  model::GptConfig c;
  c.vocab = m.at("num_tokens");
  c.width = m.at("dim");
  c.layers = m.at("depth");
  c.ffn = std::int64_t(double(c.width) * m.value("ff_expansion_factor", 4.0));
  c.context = length;
  const std::int64_t heads = m.at("heads");
  c.heads = {.query = heads, .kv = m.value("kv_heads", heads), .dim = m.at("dim_head")};
  if (!m.value("use_sparse_attn", true)) {
    c.attention = model::Attention::dense;
    return c;
  }
  const json& a = m.at("sparse_attn_kwargs");
  c.nsa = {.block = a.at("compress_block_size"),
           .select = a.at("num_selected_blocks"),
           .window = a.at("sliding_window_size"),
           .memory = a.value("num_compressed_mem_kv", 4),
           .diff_topk = a.value("use_diff_topk", false)};
  return c;
}

}  // namespace

std::vector<std::string> golden_names(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  const json manifest = json::parse(read_file(folder / "manifest.json"));
  for (const auto& [name, unused] : manifest.at("cases").items()) names.push_back(name);
  return names;
}

GoldenCase read_golden(const std::filesystem::path& folder, const std::string& name) {
  GoldenCase g;
  g.name = name;
  const json entry = json::parse(read_file(folder / "manifest.json")).at("cases").at(name);
  const json& config = entry.at("config");
  if (config.at("version") != "seed") {
    g.unsupported = "rules '" + config.at("version").get<std::string>() + "' are not built";
    return g;
  }
  g.batch = config.at("batch");
  g.length = config.at("n");
  g.config = config_of(config.at("model"), g.length);

  const engine::ContainerReader params(folder / (name + ".params.safetensors"));
  const engine::ContainerReader acts(folder / (name + ".acts.safetensors"));
  const engine::ContainerReader grads(folder / (name + ".grads.safetensors"));
  g.params = with_prefix(params, "param.");
  g.gradients = with_prefix(grads, "grad.");
  const auto ids = read(params.at("ids", engine::FileType::i64)).values;  // [batch, length + 1]
  for (std::int64_t b = 0; b < g.batch; b++)
    for (std::int64_t t = 0; t < g.length; t++) {
      const auto at = std::size_t(b * (g.length + 1) + t);
      g.ids.push_back(std::int32_t(ids.at(at)));
      g.targets.push_back(std::int32_t(ids.at(at + 1)));
    }
  g.logits = read(acts.at("logits", engine::FileType::f32));
  g.loss = read(acts.at("loss", engine::FileType::f32));
  if (const auto* selected = acts.find("l0.sel_sorted")) g.selected = read(*selected);
  return g;
}

}  // namespace tests
