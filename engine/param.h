// A model's parameters: named tensors laid out in flat slabs, one for the values and one for the gradients,
// so that the optimizer, clipping and checkpoints work on ranges.
#pragma once
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "engine/rng.h"
#include "engine/tensor.h"

namespace engine {

struct Init {
  enum class Kind { constant, normal, uniform } kind = Kind::constant;
  float value = 0;  // the constant, the standard deviation, or the bound of uniform(-value, value)
  static Init constant(float value) { return {Kind::constant, value}; }
  static Init normal(float deviation) { return {Kind::normal, deviation}; }
  static Init uniform(float bound) { return {Kind::uniform, bound}; }
};

struct Param {
  std::string name;
  Shape file_shape;    // as stored in files; rows past file_shape[0] exist in memory only and stay zero
  Shape memory_shape;  // with those rows
  Tensor value, grad;  // views into the slabs, after seal()
  Init init;
  bool touched = false;          // has this step written grad yet?
  std::uint64_t written_by = 0;  // the job beside the stream (engine/lanes.h) that did last; 0: none
  bool decays() const noexcept { return file_shape.rank >= 2; }
};

class ParamStore {
 public:
  ParamStore(Device device, DType value) : device_(device), dtype_(value) {}
  // Registers a parameter of `shape`; `memory_rows` >= shape[0] pads dimension 0 in memory. Before seal()
  // only.
  Param& add(std::string name, Shape shape, Init init, std::int64_t memory_rows = 0);
  // Lays out the slabs: tensors of rank >= 2 first (they take weight decay), each at a multiple of 64
  // elements, the whole a multiple of world x 256. With `gradients` false there is no gradient slab
  // (inference).
  void seal(bool gradients, int world = 1);
  // Draws every start value: a function of (seed, name, index) alone.
  void initialize(std::uint64_t seed, Stream&);

  // The values of a parameter with its shape in files, and its masters.
  void set(const Param&, const float* values, Stream&);

  std::deque<Param>& all() noexcept { return params_; }
  const std::deque<Param>& all() const noexcept { return params_; }
  Param* find(std::string_view name) noexcept;
  Tensor values() const noexcept { return values_; }  // [total]
  // [total], fp32: what is trained. The values themselves where those are fp32, else the values are these,
  // rounded. Not there without gradients and with bf16 values.
  Tensor masters() const noexcept { return masters_; }
  Tensor grads() const noexcept { return grads_; }            // [total], fp32
  std::int64_t decayed() const noexcept { return decayed_; }  // elements [0, decayed) take weight decay
  std::int64_t total() const noexcept { return total_; }      // slab elements, padding included
  std::int64_t trained_scalars() const noexcept;              // without any padding
  // The sub-range of a slab shaped like the values (an optimizer moment) that belongs to a parameter.
  Tensor range_of(const Param&, const Tensor& slab) const;
  void begin_step() noexcept;  // no gradient written yet
  Device device() const noexcept { return device_; }
  DType dtype() const noexcept { return dtype_; }  // of the values

 private:
  Device device_;
  DType dtype_;
  std::deque<Param> params_;
  std::vector<std::int64_t> first_;  // slab offset of each parameter
  Tensor values_, masters_, grads_;
  std::int64_t decayed_ = 0, total_ = 0;
};

}  // namespace engine
