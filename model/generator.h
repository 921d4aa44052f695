// Generation: samples that begin with the same tokens go on side by side, each token drawn from the model's
// distribution. A sample's text depends on its prompt, the sampler and its seed alone, not on its neighbours.
//
// A drawn token is read by a step of few launches over the caches. Given ones are read that way, too, if they
// are few; else one pass by the ops of training reads all that the sample holds then, which fills the caches
// anew. Which it is depends on the device, their number and the length alone; in fp32 the logits agree to
// 1e-5. On a card the step and the draw are recorded graphs, and the host reads a token while the card goes
// on with it.
//
// Parameters are read where they lie, so between two calls of start() they may be trained.
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
  // Room for `samples` of `capacity` tokens each. `banned` is never drawn; -1: nothing is. Throws
  // DeviceError(memory).
  Generator(const Gpt&, engine::Stream&, std::int64_t samples, std::int64_t capacity, const SamplerConfig&,
            std::int32_t banned = -1);
  // Plans and allocates what start() takes for so many tokens, which it does itself otherwise.
  void reserve(std::int64_t tokens);
  // Every sample holds these tokens and nothing else: at least one, each below the vocabulary. Sample i draws
  // under the seed `seed` + i. Nothing of earlier use is left.
  void start(std::span<const std::int32_t> tokens, std::uint64_t seed = 0);
  // Every sample goes on with these.
  void read(std::span<const std::int32_t> tokens);
  // Every sample keeps the last `count` tokens that it holds, as if it had been started with them. What is
  // drawn is a function of the places as well, which are those of a text's beginning again: give another
  // seed.
  void keep_end(std::int64_t count, std::uint64_t seed);
  // The next token of each sample, which now holds it. Throws Error(diverged) where a logit is NaN or
  // +infinity.
  const std::vector<std::int32_t>& draw();
  // Logits [samples * vocabulary] of the token that follows what each sample holds.
  std::vector<float> logits();
  std::int64_t length() const noexcept { return length_; }      // tokens that each sample holds
  std::int64_t capacity() const noexcept { return capacity_; }  // and may hold
  std::size_t memory_bytes() const noexcept;                    // of the device, parameters not counted

 private:
  engine::Tensor newest() const;  // i32 [samples]: the last token of each
  void restart(std::uint64_t seed);
  void append(std::span<const std::int32_t> rows, std::int64_t count);  // rows [samples, count]
  bool by_steps(std::int64_t count, std::int64_t length) const noexcept;
  void read_by_steps(std::span<const std::int32_t> rows, std::int64_t count);
  void read_by_passes();
  void plan_pass(std::int64_t length);
  void pass(std::int64_t sample, std::int64_t length, const Caches& to);
  void place(std::int64_t position);
  void step();
  void draw_next();
  void catch_up();
  void check_room(std::int64_t length) const;

  const Gpt& gpt_;
  engine::Stream& stream_;
  std::int64_t samples_, capacity_, length_ = 0;
  SamplerConfig sampler_;
  std::uint64_t seed_ = 0;
  std::int32_t banned_;

  Caches caches_;
  engine::Draws draws_;
  engine::Tensor logits_;  // [samples, padded vocabulary], of what follows the newest token once it was read
  bool unread_ = false;    // the newest token is yet to be read
  bool alike_ = true;      // all samples hold the same
  engine::Arena arena_, pass_arena_;
  engine::Context context_, pass_context_;
  std::int64_t pass_length_ = 0;  // what pass_arena_ is planned for
  engine::Graph step_graph_, draw_graph_;
  std::shared_ptr<std::byte> staging_;
  engine::Event drawn_event_;
  std::vector<std::int32_t> drawn_;
};

}  // namespace model
