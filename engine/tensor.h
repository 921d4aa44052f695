// A dense row-major block of typed memory, and a value's identity on a tape.
#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "engine/arena.h"
#include "engine/device.h"
#include "kernels/types.h"

namespace engine {

using k::DType;

struct Shape {
  std::array<std::int64_t, 4> dim{1, 1, 1, 1};
  int rank = 0;
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims);
  std::int64_t numel() const noexcept { return dim[0] * dim[1] * dim[2] * dim[3]; }
  std::int64_t operator[](int i) const noexcept { return dim[std::size_t(i < 0 ? rank + i : i)]; }
  bool operator==(const Shape&) const = default;
};
std::string to_string(const Shape&);  // "[4, 256, 512]"

// Where a value's gradient goes: its identity without its memory. A closure that only routes a gradient
// captures this.
struct Slot {
  unsigned tape = 0;
  int id = -1;  // -1: not differentiable
  Shape shape;
  DType dtype = DType::f32;
};

// Copies share the memory; the last one gives it back.
class Tensor {
 public:
  Tensor() = default;
  static Tensor persistent(Device, Shape,
                           DType);  // outside the arena: parameters, inputs, caches; zero-filled
  static Tensor in_arena(Arena&, Shape, DType);

  const Shape& shape() const noexcept { return shape_; }
  DType dtype() const noexcept { return dtype_; }
  std::int64_t numel() const noexcept { return shape_.numel(); }
  std::size_t bytes() const noexcept { return std::size_t(numel()) * k::size_of(dtype_); }
  explicit operator bool() const noexcept { return memory_ != nullptr; }

  Tensor view(Shape) const;                       // same memory and value; sizes must agree
  Tensor slice(std::int64_t first, Shape) const;  // elements [first, first + numel), no gradient
  void* data() const noexcept;
  float* f32() const noexcept { return static_cast<float*>(data()); }
  std::int32_t* i32() const noexcept { return static_cast<std::int32_t*>(data()); }
  operator k::In() const noexcept { return {data(), dtype_}; }
  k::Out out() const noexcept { return {data(), dtype_}; }
  bool differentiable() const noexcept { return id_ >= 0; }
  operator Slot() const noexcept { return {tape_, id_, shape_, dtype_}; }
  bool unique() const noexcept { return memory_.use_count() == 1; }
  // The last job beside the stream (engine/lanes.h) that reads this memory, which nobody may write before it
  // is over; 0: none.
  void read_by(std::uint64_t job) const noexcept;
  std::uint64_t reader() const noexcept;

  std::vector<float> to_host(Stream&) const;  // tests and logging: waits; f32 and bf16
  void from_host(const float* values,
                 Stream&) const;  // f32 and bf16 (rounded); the stream is idle afterwards

 private:
  struct Memory;
  std::shared_ptr<Memory> memory_;
  std::size_t offset_ = 0;  // bytes from the memory's start
  Shape shape_;
  DType dtype_ = DType::f32;
  int id_ = -1;
  unsigned tape_ = 0;
  friend class Tape;
};

}  // namespace engine
