// Generation: samples that begin with the same tokens go on side by side, each token drawn from the model's
// distribution. A sample's text depends on its prompt, the sampler and its seed alone, not on its neighbours.
//
// The tokens given at the start are read by the ops of training, which fill the caches; every further one is
// a step of few launches over the caches. On a card the step and the draw are recorded graphs, and the host
// reads a token while the card goes on with it.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "engine/sampling.h"
#include "model/gpt.h"

namespace model {

using engine::SamplerConfig;

class Generator {
 public:
  // Room for `samples` of `capacity` tokens each. Sample i draws under the seed `seed` + i. `banned` is never
  // drawn; -1: nothing is. Throws DeviceError(memory).
  Generator(const Gpt&, engine::Stream&, std::int64_t samples, std::int64_t capacity, const SamplerConfig&,
            std::uint64_t seed, std::int32_t banned = -1);
  // Every sample holds these tokens and nothing else: at least one, each below the vocabulary.
  void start(std::span<const std::int32_t> tokens);
  // Every sample goes on with these.
  void read(std::span<const std::int32_t> tokens);
  // The next token of each sample, which now holds it. Throws Error(diverged) where a logit is NaN or
  // +infinity.
  const std::vector<std::int32_t>& draw();
  // Logits [samples * vocabulary] of the token that follows what each sample holds.
  std::vector<float> logits();
  std::int64_t length() const noexcept { return length_; }  // tokens that each sample holds

 private:
  engine::Tensor newest() const;  // i32 [samples]: what draw() gave, or read() was given
  void step();
  void draw_next();
  void catch_up();
  void check_room(std::int64_t length) const;

  const Gpt& gpt_;
  engine::Stream& stream_;
  std::int64_t samples_, capacity_, length_ = 0;
  SamplerConfig sampler_;
  std::uint64_t seed_;
  std::int32_t banned_;

  Caches caches_;
  engine::Draws draws_;
  engine::Tensor logits_;  // [samples, padded vocabulary], of what follows the newest token once it was read
  bool unread_ = false;    // the newest token is yet to be read
  engine::Arena arena_;
  engine::Graph step_graph_, draw_graph_;
  std::shared_ptr<std::byte> staging_;
  engine::Event drawn_event_;
  std::vector<std::int32_t> drawn_;
};

}  // namespace model
