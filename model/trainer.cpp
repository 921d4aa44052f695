#include "model/trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace model {

using engine::DType;
using engine::Tape;
using engine::Tensor;

namespace {

std::int64_t counted(std::span<const std::int32_t> targets) {
  return std::count_if(targets.begin(), targets.end(), [](std::int32_t t) { return t >= 0; });
}

engine::Stream upload_stream(const engine::Stream& compute) {
  return compute.device().kind == engine::DeviceKind::cuda ? engine::Stream::beside(compute)
                                                           : engine::Stream(compute.device());
}

}  // namespace

Trainer::Trainer(const Gpt& gpt, engine::ParamStore& store, engine::AdamW& optimizer, engine::Stream& stream,
                 const StepSizes& sizes)
    : gpt_(gpt),
      store_(store),
      optimizer_(optimizer),
      stream_(stream),
      uploads_(upload_stream(stream)),
      sizes_(sizes),
      arena_(stream.device()),
      context_{stream, arena_} {
  const engine::Device device = stream.device();
  const engine::Shape all{sizes.micro_batches * rows()};
  ids_ = Tensor::persistent(device, all, DType::i32);
  targets_ = Tensor::persistent(device, all, DType::i32);
  losses_ = Tensor::persistent(device, all, DType::f32);
  for (int i = 0; i < 2; i++) {
    Exchange& e = exchanges_.emplace_back(device);
    e.arrived_ids = Tensor::persistent(device, all, DType::i32);
    e.arrived_targets = Tensor::persistent(device, all, DType::i32);
    e.ids = engine::allocate_staging(device, ids_.bytes());
    e.targets = engine::allocate_staging(device, targets_.bytes());
    e.scalars = engine::allocate_staging(device, sizeof(k::AdamWScalars));
    e.losses = engine::allocate_staging(device, losses_.bytes());
    e.sum_of_squares = engine::allocate_staging(device, sizeof(double));
  }
  run_micro_batch(0, true, 1);
  run_micro_batch(0, false, 1);
  store_.begin_step();
  arena_.commit();
}

void Trainer::upload(std::span<const MicroBatch> batches, Exchange& exchange) {
  const std::size_t bytes = std::size_t(rows()) * sizeof(std::int32_t);
  for (std::size_t i = 0; i < batches.size(); i++) {
    if (batches[i].ids.size_bytes() != bytes || batches[i].targets.size_bytes() != bytes)
      throw std::logic_error("trainer: a micro-batch of another size");
    std::memcpy(exchange.ids.get() + i * bytes, batches[i].ids.data(), bytes);
    std::memcpy(exchange.targets.get() + i * bytes, batches[i].targets.data(), bytes);
  }
  uploads_.copy(exchange.arrived_ids.data(), exchange.ids.get(), batches.size() * bytes);
  uploads_.copy(exchange.arrived_targets.data(), exchange.targets.get(), batches.size() * bytes);
  exchange.uploaded.record(uploads_);
  stream_.follow(exchange.uploaded);
  stream_.copy(ids_.data(), exchange.arrived_ids.data(), batches.size() * bytes);
  stream_.copy(targets_.data(), exchange.arrived_targets.data(), batches.size() * bytes);
}

// In a rehearsal (before commit) nothing runs: there are no numbers yet.
void Trainer::run_micro_batch(std::int64_t index, bool training, float grad_scale) {
  const auto part = [&](const Tensor& all) { return all.slice(index * rows(), {rows()}); };
  Tape tape(context_, training ? Tape::Mode::train : Tape::Mode::infer);
  const Tensor losses = gpt_.losses(tape, part(ids_), part(targets_), sizes_.batch, grad_scale);
  if (arena_.committed()) stream_.copy(part(losses_).data(), losses.data(), losses.bytes());
  if (training) tape.backward(losses);
}

// A profile times launch by launch and checks wait for each, which a graph does not let them do.
void Trainer::perform(engine::Graph& graph, const std::function<void()>& work) {
  context_.lanes.run_beside(!context_.profile && !context_.checks);
  if (graphs_ && !context_.profile && !context_.checks) graph.run(stream_, work);
  else work();
}

void Trainer::submit(std::span<const MicroBatch> batches, std::int64_t step, double learning_rate) {
  if (batches.size() > std::size_t(sizes_.micro_batches) || under_way_.size() == exchanges_.size())
    throw std::logic_error("trainer: more micro-batches or steps than planned");
  std::int64_t targets = 0;
  for (const auto& batch : batches) targets += counted(batch.targets);
  const float scale = 1.f / float(std::max<std::int64_t>(targets, 1));
  Exchange& exchange = exchanges_[next_exchange_];
  upload(batches, exchange);
  const k::AdamWScalars scalars = optimizer_.scalars(step, learning_rate);
  std::memcpy(exchange.scalars.get(), &scalars, sizeof scalars);
  stream_.copy(optimizer_.update_scalars().data(), exchange.scalars.get(), sizeof scalars);

  if (batches.size() != recorded_micro_batches_ || scale != recorded_scale_) step_graph_.forget();
  recorded_micro_batches_ = batches.size();
  recorded_scale_ = scale;
  perform(step_graph_, [&] {
    store_.begin_step();
    for (std::size_t i = 0; i < batches.size(); i++) run_micro_batch(std::int64_t(i), true, scale);
    optimizer_.update(context_);
  });

  stream_.copy(exchange.losses.get(), losses_.data(), batches.size() * std::size_t(rows()) * sizeof(float));
  stream_.copy(exchange.sum_of_squares.get(), optimizer_.sum_of_squares().data(), sizeof(double));
  exchange.done.record(stream_);
  under_way_.push_back({next_exchange_, batches.size(), targets});
  next_exchange_ = (next_exchange_ + 1) % exchanges_.size();
}

double Trainer::loss_sum(const Exchange& exchange, std::size_t micro_batches) const {
  const auto* losses = reinterpret_cast<const float*>(exchange.losses.get());
  double sum = 0;
  for (std::size_t i = 0; i < micro_batches; i++) {
    double part = 0;
    for (std::int64_t row = 0; row < rows(); row++) part += double(losses[std::int64_t(i) * rows() + row]);
    sum += part;
  }
  return sum;
}

StepResult Trainer::finish() {
  if (under_way_.empty()) throw std::logic_error("trainer: no step is under way");
  const UnderWay earliest = under_way_.front();
  under_way_.pop_front();
  const Exchange& exchange = exchanges_[earliest.exchange];
  exchange.done.wait();
  double sum_of_squares = 0;
  std::memcpy(&sum_of_squares, exchange.sum_of_squares.get(), sizeof sum_of_squares);
  return {{loss_sum(exchange, earliest.micro_batches), earliest.targets}, std::sqrt(sum_of_squares)};
}

StepResult Trainer::step(std::span<const MicroBatch> batches, std::int64_t step, double learning_rate) {
  submit(batches, step, learning_rate);
  return finish();
}

LossSum Trainer::evaluate(const MicroBatch& batch) {
  if (!under_way_.empty()) throw std::logic_error("trainer: an evaluation during a step");
  Exchange& exchange = exchanges_[next_exchange_];
  upload(std::span(&batch, 1), exchange);
  perform(evaluation_graph_, [&] { run_micro_batch(0, false, 0); });
  stream_.copy(exchange.losses.get(), losses_.data(), std::size_t(rows()) * sizeof(float));
  exchange.done.record(stream_);
  exchange.done.wait();
  return {loss_sum(exchange, 1), counted(batch.targets)};
}

}  // namespace model
