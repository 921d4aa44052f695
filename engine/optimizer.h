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
  // The numbers of step `step` (from 1) as the update reads them.
  k::AdamWScalars scalars(std::int64_t step, double learning_rate) const noexcept;
  // One update from the gradients of the store, with the scalars in the device's memory at update_scalars().
  // Parameters that no op touched this step have their gradients cleared first. A non-finite norm leaves
  // parameters and moments as they were.
  void update(Context&);
  Tensor update_scalars() const noexcept { return scalars_; }  // holds a k::AdamWScalars
  Tensor sum_of_squares() const noexcept { return sum_; }  // holds a double: of the last update's gradients
  void step(Context&, std::int64_t step, double learning_rate);  // uploads the scalars and updates
  double grad_norm(Stream&) const;                               // of the last step, before clipping; waits
  Tensor first_moment() const noexcept { return m_; }            // [total], fp32
  Tensor second_moment() const noexcept { return v_; }

 private:
  ParamStore& store_;
  AdamWConfig config_;
  Tensor m_, v_;
  Tensor partial_, sum_, scalars_;  // double [blocks], double [1], AdamWScalars, held as bytes in f32 tensors
};

}  // namespace engine
