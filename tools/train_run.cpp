#include "tools/train_run.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/durable_file.h"
#include "tools/checkpoint_files.h"
#include "tools/cli.h"
#include "tools/op_table.h"
#include "tools/precision.h"

namespace tools {

using engine::Exit;
using engine::fail;
using engine::require;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::int64_t kSampleTokens = 64;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

engine::AdamWConfig optimizer_config(const TrainFlags& f) {
  return {.beta1 = float(f.beta1),
          .beta2 = float(f.beta2),
          .eps = float(f.eps),
          .decay = float(f.weight_decay),
          .clip = float(f.clip)};
}

}  // namespace

void WindowBatch::clear() {
  std::ranges::fill(ids_, 0);
  std::ranges::fill(targets_, -1);
}

TrainRun::TrainRun(TrainFlags flags, const model::GptConfig& config, TokenFiles files,
                   std::optional<Resumed> resumed)
    : flags_(std::move(flags)),
      data_(std::move(files), flags_),
      tokenizer_(data_.vocabulary().tokenizer()),
      stream_(engine::parse_device(flags_.device)),
      store_(stream_.device(), compute_type(flags_.dtype, stream_.device())),
      gpt_(config, store_, flags_.recompute == "block" ? model::Recompute::block : model::Recompute::none),
      schedule_{.kind = engine::parse_schedule(flags_.schedule),
                .peak = flags_.learning_rate,
                .steps = flags_.steps,
                .warmup = flags_.warmup,
                .final_fraction = flags_.final_fraction},
      resumed_(std::move(resumed)) {
  store_.seal(true);
  optimizer_.emplace(store_, optimizer_config(flags_));
  trainer_.emplace(
      gpt_, store_, *optimizer_, stream_,
      model::StepSizes{.batch = flags_.batch, .length = flags_.length, .micro_batches = flags_.accumulation});
  trainer_->use_graphs(!flags_.no_graph);
  trainer_->check(flags_.check);
  if (flags_.sample_every == 0) return;
  prompt_ = make_prompt(*tokenizer_, flags_.prompt);
  shorten(prompt_, gpt_.config(), kSampleTokens, "train_gpt");
  const auto size = std::int64_t(prompt_.tokens.size());
  generator_.emplace(gpt_, stream_, 1, text_room(gpt_.config(), size, kSampleTokens), model::SamplerConfig{});
  generator_->reserve(size);
}

void TrainRun::begin() {
  for (std::int64_t i = 0; i < flags_.accumulation; i++) batches_.emplace_back(flags_.batch, flags_.length);
  for (const WindowBatch& batch : batches_) micro_batches_.push_back(batch.view());
  remove_left_overs_of_run(flags_.out);
  engine::DurableFile probe(flags_.out);  // an output that cannot be written fails now, not after hours
  if (resumed_) {
    load(*resumed_);
    resumed_.reset();
  } else {
    store_.initialize(std::uint64_t(flags_.seed), stream_);
    if (!flags_.init_from.empty()) load_weights(flags_.init_from);
  }
  log_.emplace(
      flags_.log.empty() ? beside(flags_.out, ".log.jsonl") : std::filesystem::path(flags_.log),
      LogStart{.keep_through = state_.step, .evaluation_due = state_.evaluation_due, .quiet = flags_.quiet});
}

void TrainRun::load_weights(const std::string& path) {
  const engine::Checkpoint start(path);
  require_same_vocabulary(start, data_.vocabulary());
  require(model::config_from_json(start.config(), path) == gpt_.config(), Exit::checkpoint,
          "{}: holds another model than these flags and this data describe; give the same model flags", path);
  start.load(store_, stream_);
}

void TrainRun::load(const Resumed& resumed) {
  const auto& [checkpoint_at, saved] = resumed;
  const engine::Checkpoint& checkpoint = *checkpoint_at;
  checkpoint.load(store_, stream_);
  checkpoint.load(*optimizer_, store_, stream_);
  require(
      saved.data_fingerprint == data_.fingerprint(), Exit::checkpoint,
      "{}: was trained on other data than {} holds now, or on another split of it, or with other weights; "
      "give the same with -d, or start anew with --init-from",
      checkpoint.path(), flags_.data);
  require(saved.validation_fingerprint == data_.validation_fingerprint(), Exit::checkpoint,
          "{}: was validated on other data than {} now; give the same --val-data, or start anew with "
          "--init-from",
          checkpoint.path(), flags_.validation_data.empty() ? flags_.data : flags_.validation_data);
  state_ = saved.state;
  const auto tokens = std::uint64_t(state_.tokens), length = std::uint64_t(flags_.length);
  require(tokens % length == 0 && tokens / length == state_.next_sample, Exit::checkpoint,
          "{}: the state of its run is damaged: {} tokens, expected those of {} windows of {}",
          checkpoint.path(), tokens, state_.next_sample, length);
  data_.training().seek(state_.next_sample);
  state_.evaluation_due = state_.evaluation_due && evaluates();
  saved_ = true;
}

void TrainRun::print_opening() const {
  say("train_gpt {}, {} build\n", kVersion, engine::has_cuda ? "CUDA" : "CPU");
  say("device     {}; {}; seed {}\n", engine::device_name(stream_.device()), precision(), flags_.seed);
  const double windows = double(step_windows()) * double(flags_.steps);  // of the whole run
  data_.print(windows);
  say("model      {} parameters, {} layers of {}, {} attention\n", with_commas(store_.trained_scalars()),
      gpt_.config().layers, gpt_.config().width,
      gpt_.config().attention == model::Attention::nsa ? "sparse" : "dense");
  say("step       {} x {} sequences of {} tokens = {} tokens; {} windows an epoch, {:.2f} epochs\n",
      flags_.accumulation, flags_.batch, flags_.length, with_commas(step_windows() * flags_.length),
      with_commas(std::int64_t(data_.training().whole())), windows / double(data_.training().whole()));
  print_memory();
  if (state_.step > 0) say("resumed    {} after step {}\n", flags_.out, state_.step);
  if (data_.validation_targets() == 0) say("validation off: the data has no validation part\n");
}

std::string TrainRun::precision() const {
  if (store_.dtype() == engine::DType::f32 && flags_.dtype == "bf16")
    return "fp32 (the CPU computes in it), stored as bf16";
  return describe_precision(flags_.dtype, stream_.device()) +
         (store_.dtype() == engine::DType::bf16 ? ", fp32 masters" : "");
}

void TrainRun::print_memory() const {
  const std::uint64_t values = store_.values().bytes(), gradients = store_.grads().bytes(),
                      activations = trainer_->activation_bytes(),
                      masters = store_.dtype() == engine::DType::bf16 ? store_.masters().bytes() : 0,
                      optimizer = 2 * gradients + masters,
                      samples = generator_ ? generator_->memory_bytes() : 0;
  const auto row = [](const char* heading, const char* what, std::uint64_t bytes) {
    say("{:<10} {:<12} {:>12}\n", heading, what, mebibytes(bytes));
  };
  row("memory", "parameters", values);
  row("", "gradients", gradients);
  row("", "optimizer", optimizer);
  row("", "activations", activations);
  if (generator_) row("", "samples", samples);
  row("", "in all", values + gradients + optimizer + activations + samples);
}

void TrainRun::submit_step() {
  for (WindowBatch& batch : batches_)
    for (std::int64_t row = 0; row < flags_.batch; row++, state_.next_sample++)
      data_.training().read_next(batch.ids(row), batch.targets(row));
  state_.step++;
  if (state_.step == flags_.profile_from) trainer_->measure(&profile_.emplace());
  trainer_->submit(micro_batches_, state_.step, schedule_.rate(state_.step));
  saved_ = false;
}

// Reads back the earliest step under way and reports it.
void TrainRun::finish_step() {
  const std::int64_t step = state_.step - std::int64_t(trainer_->under_way()) + 1;
  const model::StepResult result = trainer_->finish();
  const double loss = result.loss.mean();
  state_.tokens += result.loss.targets;
  state_.last_loss = loss;
  const auto now = Clock::now();
  log_->step({.step = step,
              .steps = flags_.steps,
              .tokens = state_.tokens,
              .epoch = epoch_at(step),
              .step_tokens = step_windows() * flags_.length,
              .loss = loss,
              .grad_norm = result.grad_norm,
              .learning_rate = schedule_.rate(step),
              .seconds = std::chrono::duration<double>(now - last_finish_).count(),
              .memory_bytes = engine::peak_memory(stream_.device()),
              .flops = gpt_.flops_per_token(flags_.length) * double(result.loss.targets),
              .peak_flops = engine::peak_flops(stream_.device())});
  last_finish_ = now;
  if (!std::isfinite(loss) || !std::isfinite(result.grad_norm))
    handle_nonfinite(step, loss, result.grad_norm);
}

// The optimizer has left the parameters as they were; the last checkpoint on the disk is the one to go on
// from.
void TrainRun::handle_nonfinite(std::int64_t step, double loss, double norm) {
  log_->event(step, "nonfinite", fmt::format("loss {}, gradient norm {}", loss, norm));
  if (flags_.on_nonfinite == "skip") return;
  fail(Exit::diverged,
       "step {}: loss {}, gradient norm {}: not finite, nothing was updated or saved; lower --lr and "
       "--resume, or use "
       "--on-nonfinite skip",
       step, loss, norm);
}

void TrainRun::print_profile() {
  const std::int64_t steps = state_.step - flags_.profile_from + 1;
  double seconds = 0;
  for (const auto& [name, total] : profile_->totals()) seconds += total.seconds;
  log_->end_display();
  say("{}", op_table(profile_->totals(), steps, seconds / double(steps), nullptr));
  trainer_->measure(nullptr);
  profile_.reset();
}

void TrainRun::evaluate(const data::Interrupt& interrupt) {
  model::LossSum total;
  const std::uint64_t windows = data_.validation_windows();
  for (std::uint64_t w = 0; w < windows; w += std::uint64_t(flags_.batch)) {
    interrupt.check();
    WindowBatch& batch = batches_.front();
    batch.clear();
    for (std::int64_t row = 0; row < flags_.batch && w + std::uint64_t(row) < windows; row++)
      data_.read_validation(w + std::uint64_t(row), batch.ids(row), batch.targets(row));
    const model::LossSum part = trainer_->evaluate(batch.view());
    total.sum += part.sum;
    total.targets += part.targets;
  }
  const double loss = total.mean();
  log_->validation({.step = state_.step,
                    .tokens = state_.tokens,
                    .epoch = epoch_at(state_.step),
                    .loss = loss,
                    .bits_per_byte = total.sum / std::numbers::ln2 / data_.validation_bytes()});
  state_.last_validation = loss;
  state_.evaluation_due = saved_ = false;
  if (!std::isfinite(loss) || (state_.best_validation != 0 && loss >= state_.best_validation)) return;
  state_.best_validation = loss;
  engine::save_checkpoint(beside(flags_.out, ".best.bin"), parts(false), stream_);
}

engine::CheckpointParts TrainRun::parts(bool with_optimizer) const {
  return {.params = store_,
          .optimizer = with_optimizer ? &*optimizer_ : nullptr,
          .weights = flags_.dtype == "bf16" ? engine::DType::bf16 : store_.dtype(),
          .config = model::to_json(gpt_.config()),
          .state = to_json(SavedState{state_, flags_, data_.fingerprint(), data_.validation_fingerprint(),
                                      data_.vocabulary().vocab_sha256()}),
          .tokenizer = data_.vocabulary().tokenizer_payload(),
          .made_by = made_by()};
}

void TrainRun::save() {
  // The history first: a run that is killed between the two files does this step again and misses nothing.
  const bool history = flags_.keep > 0 && due(flags_.save_every);
  if (history) engine::save_checkpoint(numbered(flags_.out, state_.step), parts(true), stream_);
  engine::save_checkpoint(flags_.out, parts(true), stream_);
  if (history) prune_history(flags_.out, flags_.keep, state_.step);
  log_->event(state_.step, "saved", flags_.out);
  saved_ = true;
}

void TrainRun::sample() {
  std::string text = prompt_.text;
  generate_texts(*generator_, *tokenizer_,
                 {.prompt = prompt_,
                  .tokens = kSampleTokens,
                  .seed = std::uint64_t(flags_.seed) + std::uint64_t(state_.step)},
                 [&text](std::size_t, std::string_view piece, bool) { text += piece; });
  log_->sample(state_.step, text);
}

int TrainRun::train(const data::Interrupt& interrupt) try {
  const auto start = Clock::now();
  // On a card the next step is queued before the last one's figures are read, so that it never waits.
  const std::size_t ahead = stream_.device().kind == engine::DeviceKind::cuda ? 1 : 0;
  if (state_.evaluation_due) evaluate(interrupt);
  bool stop = flags_.stop_at > 0 && state_.step >= flags_.stop_at;
  while (!stop && !finished()) {
    if (trainer_->under_way() == 0) last_finish_ = Clock::now();
    submit_step();
    stop = state_.step == flags_.stop_at ||
           (flags_.max_minutes > 0 && seconds_since(start) >= 60 * flags_.max_minutes);
    const bool evaluation = evaluates() && (due(flags_.eval_every) || finished()),
               saving = stop || finished() || due(flags_.save_every), sampling = due(flags_.sample_every);
    const bool settle = evaluation || saving || sampling || profile_;
    while (trainer_->under_way() > (settle ? 0 : ahead)) finish_step();
    if (profile_ && (state_.step == flags_.profile_to || stop || finished())) print_profile();
    if (sampling) sample();  // first: where a signal or a kill comes between, the resumed run has it
    state_.evaluation_due = evaluation;
    interrupt.check();
    if (evaluation) evaluate(interrupt);
    if (saving) save();
  }
  return 0;
} catch (const data::Interrupted& interrupted) {
  while (trainer_->under_way() > 0) finish_step();
  return 128 + interrupted.signal;
}

int TrainRun::run(const data::Interrupt& interrupt) {
  begin();
  print_opening();
  const int code = train(interrupt);
  if (!saved_) save();
  log_->end_display();
  if (state_.best_validation > 0) say("best validation loss {:.4f}; ", state_.best_validation);
  say("./sample -c {}{}\n", flags_.out,
      finished() && !state_.evaluation_due ? "" : "   (go on: the same command with --resume)");
  return code;
}

}  // namespace tools
