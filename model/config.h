// What a GPT is made of: sizes, the kind of attention, and the presets of docs/reference.md.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/ops.h"

namespace model {

enum class Attention : std::uint8_t { nsa, dense };
enum class FfnKind : std::uint8_t { gelu, swiglu };

struct GptConfig {  // the defaults are the reference model (docs/model.md)
  std::int64_t vocab = 21128, layers = 6, width = 512, ffn = 2048;
  std::int64_t context = 256;  // the length it is trained at
  engine::Heads heads{};
  Attention attention = Attention::nsa;
  engine::NsaConfig nsa{};
  FfnKind ffn_kind = FfnKind::gelu;
  bool bias = true;   // in the feed-forward layers; the gates always have one
  bool tied = false;  // the head is the embedding
  float rope_base = 10000;
  static constexpr float kNormEps = 1.1920929e-7f;  // 2^-23, docs/model.md 1.1
  static constexpr std::int64_t kVocabAlign = 64;

  std::int64_t padded_vocab() const noexcept { return (vocab + kVocabAlign - 1) / kVocabAlign * kVocabAlign; }
  // Throws Error(usage) naming the field, its value and what works.
  void validate() const;
  bool operator==(const GptConfig&) const = default;
};

std::string to_json(const GptConfig&);
// Throws Error(checkpoint) naming `where` and the missing or wrong field; validates.
GptConfig config_from_json(std::string_view json, const std::string& where);

struct Preset {
  std::string_view name, about;
  GptConfig config;
  std::int64_t batch, accumulation;
};
const std::vector<Preset>& presets();
const Preset& find_preset(std::string_view name);  // throws Error(usage) listing the names

}  // namespace model
