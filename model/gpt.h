// The language model: embedding, layers of attention and feed-forward, head (docs/model.md).
#pragma once
#include <vector>

#include "model/config.h"

namespace model {

enum class Recompute : std::uint8_t {
  none,
  block,  // keep only the input of each layer and run the layer again in the backward pass
};

// What generation keeps of the tokens that each sample holds.
struct Caches {
  engine::StepPlaces places;
  std::vector<engine::KvCache> layers;
  Caches of(std::int64_t sample) const;  // what layers keep of that sample alone; places stay those of all
  std::size_t bytes() const noexcept;
};

class Gpt {
 public:
  // Registers the parameters, under the names of docs/model.md 1.4.
  Gpt(const GptConfig&, engine::ParamStore&, Recompute = Recompute::none);

  // ids i32 [batch * length] -> the normed last layer's output [batch * length, width]. A row depends on
  // earlier tokens of its sequence only. With `fill` the one sequence is what every sample holds from now on.
  engine::Tensor hidden(engine::Tape&, const engine::Tensor& ids, std::int64_t batch,
                        const Caches* fill = nullptr) const;
  // One new token of each sample, ids i32 [samples], at caches.places.positions -> [samples, width]; the
  // caches take them in. For a tape of Mode::step.
  engine::Tensor hidden_step(engine::Tape&, const engine::Tensor& ids, const Caches&) const;
  // Room for `samples` of `capacity` tokens; the rotation table is yet to be filled (fill_table()).
  Caches make_caches(engine::Device, std::int64_t samples, std::int64_t capacity) const;
  void fill_table(engine::Tape&, const Caches&) const;
  // Loss of each target, f32 [batch * length]; targets i32 [batch * length], negative ones are not counted.
  // The gradient is that of grad_scale * their sum.
  engine::Tensor losses(engine::Tape&, const engine::Tensor& ids, const engine::Tensor& targets,
                        std::int64_t batch, float grad_scale) const;
  // hidden [rows, width] -> logits, fp32 [rows, padded vocabulary]; columns from vocab on are padding.
  // Written to `into` where it is given.
  engine::Tensor logits(engine::Tape&, const engine::Tensor& hidden, const engine::Tensor& into = {}) const;
  const GptConfig& config() const noexcept { return config_; }
  // Floating-point operations of one token's forward and backward pass at this length: 6 a matrix parameter
  // that is multiplied, 12 a head's feature and key that attention visits.
  double flops_per_token(std::int64_t length) const noexcept;

 private:
  struct Layer {
    engine::Param *attention_norm, *qkv, *gate = nullptr, *gate_bias = nullptr, *out;
    engine::NsaParams nsa;
    engine::Param *ffn_norm, *up, *up_bias = nullptr, *down, *down_bias = nullptr;
  };
  Layer make_layer(engine::ParamStore&, std::int64_t index) const;
  // x + attention, + feed-forward. `attend` takes the packed q, k, v and the gates (none: dense attention).
  template <class Attend>
  engine::Tensor apply(engine::Tape&, const Layer&, const engine::Tensor& x, Attend&& attend) const;
  engine::Tensor attend(engine::Tape&, const Layer&, engine::Tensor qkv, const engine::Tensor& gates,
                        const engine::Tensor& rope, std::int64_t batch, const engine::KvCache* fill) const;

  GptConfig config_;
  Recompute recompute_;
  engine::Param *embedding_, *final_norm_, *head_;
  std::vector<Layer> layers_;
};

}  // namespace model
