// AdamW over a store's slabs, with clipping on the norm of all gradients together.
#pragma once
#include "engine/tape.h"
#include "kernels/adamw.h"

namespace engine {

struct AdamWConfig {
  float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, decay = 0.1f, clip = 0.5f;
};

class AdamW {
 public:
  AdamW(ParamStore&, AdamWConfig);
  // One update from the gradients of the store. `step` counts from 1. Parameters that no op touched this step
  // have their gradients cleared first. A non-finite norm leaves parameters and moments as they were.
  void step(Context&, std::int64_t step, double learning_rate);
  double grad_norm(Stream&) const;                     // of the last step, before clipping; waits
  Tensor first_moment() const noexcept { return m_; }  // [total], fp32
  Tensor second_moment() const noexcept { return v_; }

 private:
  ParamStore& store_;
  AdamWConfig config_;
  Tensor m_, v_;
  Tensor partial_, sum_, scalars_;  // double [blocks], double [1], AdamWScalars, held as bytes in f32 tensors
};

}  // namespace engine
