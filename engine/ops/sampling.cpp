#include "engine/sampling.h"

#include <cmath>

#include "kernels/sample.h"

namespace engine {

void ops::draw(Tape& t, const Tensor& logits, const Draws& draws, const SamplerConfig& config,
               std::int64_t vocab, std::uint64_t seed, std::int32_t banned) {
  const std::int64_t rows = draws.positions.numel(), stride = logits.numel() / rows;
  require(logits.dtype() == DType::f32 && logits.numel() == rows * stride && vocab <= stride &&
              draws.tokens.shape()[0] == rows && draws.drawn.shape() == Shape({2, rows}),
          Exit::failure, "draw: logits {}, tokens {}, drawn {} for {} samples", to_string(logits.shape()),
          to_string(draws.tokens.shape()), to_string(draws.drawn.shape()), rows);
  const auto fraction = std::int64_t(std::ceil(config.top_frac * double(vocab)));
  const bool both = config.top_k > 0 && fraction > 0;
  const Tensor scratch = t.make({rows, vocab, 2}, DType::i32);
  t.launch("draw", k::Sample{.tokens = draws.tokens.i32(),
                             .positions = draws.positions.i32(),
                             .drawn = draws.drawn.i32(),
                             .logits = logits,
                             .scratch = static_cast<std::uint64_t*>(scratch.data()),
                             .rows = rows,
                             .vocab = vocab,
                             .stride = stride,
                             .capacity = draws.tokens.shape()[1],
                             .rule = {.repeat_penalty = config.repeat_penalty,
                                      .repeat_last = config.repeat_last,
                                      .keep = both ? std::min(config.top_k, fraction)
                                                   : std::max(config.top_k, fraction),
                                      .top_p = config.top_p,
                                      .min_p = config.min_p,
                                      .temperature = config.temperature,
                                      .banned = banned,
                                      .seed = seed}});
}

}  // namespace engine
