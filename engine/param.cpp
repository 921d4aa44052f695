#include "engine/param.h"

#include <algorithm>
#include <stdexcept>

namespace engine {
namespace {

constexpr std::int64_t kParamAlign = 64;   // elements: vector loads and TMA start aligned
constexpr std::int64_t kShardAlign = 256;  // elements a rank

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

Shape memory_shape(Shape shape, std::int64_t rows) {
  shape.dim[0] = std::max(shape.dim[0], rows);
  return shape;
}

float draw(const Init& init, const Rng& rng, std::uint64_t stream, std::uint64_t index) {
  switch (init.kind) {
    case Init::Kind::constant: return init.value;
    case Init::Kind::normal: return float(init.value * rng.normal(stream, index));
    case Init::Kind::uniform: return float(init.value * (2 * rng.uniform(stream, index) - 1));
  }
  return 0;
}

}  // namespace

Param& ParamStore::add(std::string name, Shape shape, Init init, std::int64_t memory_rows) {
  if (values_) throw std::logic_error("params: " + name + " added after seal()");
  Param& p = params_.emplace_back();
  p.name = std::move(name);
  p.file_shape = shape;
  p.init = init;
  p.memory_shape = memory_shape(shape, memory_rows);
  return p;
}

void ParamStore::seal(bool gradients, int world) {
  first_.assign(params_.size(), 0);
  std::int64_t at = 0;
  auto place = [&](bool decays) {
    for (std::size_t i = 0; i < params_.size(); i++) {
      if (params_[i].decays() != decays) continue;
      first_[i] = at;
      at = round_up(at + params_[i].memory_shape.numel(), kParamAlign);
    }
  };
  place(true);
  decayed_ = at;
  place(false);
  total_ = round_up(at, world * kShardAlign);
  values_ = Tensor::persistent(device_, {total_}, dtype_);
  if (dtype_ == DType::f32) masters_ = values_;
  else if (gradients) masters_ = Tensor::persistent(device_, {total_}, DType::f32);
  if (gradients) grads_ = Tensor::persistent(device_, {total_}, DType::f32);
  for (auto& p : params_) {
    p.value = range_of(p, values_);
    if (gradients) p.grad = range_of(p, grads_);
  }
}

void ParamStore::initialize(std::uint64_t seed, Stream& stream) {
  const Rng rng{seed};
  std::vector<float> start;
  for (auto& p : params_) {
    const auto id = Rng::stream_of(p.name);
    const std::int64_t count = p.file_shape.numel();
    start.resize(std::size_t(count));
#pragma omp parallel for
    for (std::int64_t i = 0; i < count; i++) start[std::size_t(i)] = draw(p.init, rng, id, std::uint64_t(i));
    set(p, start.data(), stream);
  }
}

void ParamStore::set(const Param& p, const float* values, Stream& stream) {
  const auto write = [&](const Tensor& whole) {
    stream.fill(whole.data(), 0, whole.bytes());  // the rows that exist in memory only
    whole.slice(0, p.file_shape).from_host(values, stream);
  };
  write(p.value);
  if (masters_ && dtype_ != DType::f32) write(range_of(p, masters_));
}

Param* ParamStore::find(std::string_view name) noexcept {
  for (auto& p : params_)
    if (p.name == name) return &p;
  return nullptr;
}

std::int64_t ParamStore::trained_scalars() const noexcept {
  std::int64_t n = 0;
  for (const auto& p : params_) n += p.file_shape.numel();
  return n;
}

Tensor ParamStore::range_of(const Param& wanted, const Tensor& slab) const {
  for (std::size_t i = 0; i < params_.size(); i++)
    if (&params_[i] == &wanted) return slab.slice(first_[i], wanted.memory_shape);
  throw std::logic_error("params: " + wanted.name + " belongs to another store");
}

void ParamStore::begin_step() noexcept {
  for (auto& p : params_) p.touched = false, p.written_by = 0;
}

}  // namespace engine
