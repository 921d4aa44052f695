#include "engine/tensor.h"

#include <fmt/format.h>

#include <stdexcept>

namespace engine {

struct Tensor::Memory {
  Arena* arena = nullptr;
  std::size_t offset = 0;
  std::shared_ptr<std::byte> own;  // persistent tensors
  std::uint64_t reader = 0;
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    if (arena) arena->give(offset);
  }
  std::byte* at() const noexcept {
    if (!arena) return own.get();
    return arena->committed() ? arena->base() + offset : nullptr;
  }
};

Shape::Shape(std::initializer_list<std::int64_t> dims) {
  if (dims.size() > dim.size()) throw std::logic_error("shape: more than 4 dimensions");
  for (auto d : dims) dim[std::size_t(rank++)] = d;
}

std::string to_string(const Shape& shape) {
  std::string s = "[";
  for (int i = 0; i < shape.rank; i++) s += fmt::format("{}{}", i ? ", " : "", shape[i]);
  return s + "]";
}

Tensor Tensor::persistent(Device device, Shape shape, DType dtype) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.memory_ = std::make_shared<Memory>();
  t.memory_->own = allocate(device, t.bytes());
  return t;
}

Tensor Tensor::in_arena(Arena& arena, Shape shape, DType dtype) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.memory_ = std::make_shared<Memory>();
  t.memory_->offset = arena.take(t.bytes());
  t.memory_->arena = &arena;
  return t;
}

Tensor Tensor::view(Shape shape) const {
  if (shape.numel() != numel())
    throw std::logic_error("tensor: a view of " + to_string(shape_) + " as " + to_string(shape));
  Tensor t = *this;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::slice(std::int64_t first, Shape shape) const {
  if (first < 0 || first + shape.numel() > numel())
    throw std::logic_error("tensor: a slice outside " + to_string(shape_));
  Tensor t = *this;
  t.offset_ += std::size_t(first) * k::size_of(dtype_);
  t.shape_ = shape;
  t.id_ = -1;
  return t;
}

void Tensor::read_by(std::uint64_t job) const noexcept { memory_->reader = job; }
std::uint64_t Tensor::reader() const noexcept { return memory_->reader; }

// A rehearsal has no memory: every address is null and nothing may be read.
void* Tensor::data() const noexcept {
  std::byte* start = memory_ ? memory_->at() : nullptr;
  return start ? start + offset_ : nullptr;
}

std::vector<float> Tensor::to_host(Stream& stream) const {
  std::vector<float> values(std::size_t(numel()), 0.f);
  if (!data()) throw std::logic_error("tensor: read during a rehearsal");
  if (dtype_ == DType::f32) {
    stream.copy(values.data(), data(), bytes());
    stream.wait();
  } else if (dtype_ == DType::bf16) {
    std::vector<k::bf16> raw(values.size());
    stream.copy(raw.data(), data(), bytes());
    stream.wait();
    for (std::size_t i = 0; i < raw.size(); i++) values[i] = float(raw[i]);
  } else {
    throw std::logic_error("tensor: to_host of integers");
  }
  return values;
}

void Tensor::from_host(const float* values, Stream& stream) const {
  if (dtype_ == DType::f32) {
    stream.copy(data(), values, bytes());
    stream.wait();
  } else if (dtype_ == DType::bf16) {
    std::vector<k::bf16> raw(static_cast<std::size_t>(numel()));
    for (std::size_t i = 0; i < raw.size(); i++) raw[i] = k::bf16(values[i]);
    stream.copy(data(), raw.data(), bytes());
    stream.wait();
  } else {
    throw std::logic_error("tensor: from_host of integers");
  }
}

}  // namespace engine
