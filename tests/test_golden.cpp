// The whole model against numbers of the PyTorch reference: logits, loss, every gradient, the blocks that are
// selected.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include "model/gpt.h"
#include "tests/golden_case.h"
#include "tests/support.h"

namespace {

using engine::DType;
using engine::Tape;
using engine::Tensor;
using tests::GoldenCase;
using tests::GoldenTensor;

constexpr double kLogits = 1e-4;     // absolute
constexpr double kLoss = 1e-5;       // absolute
constexpr double kGradients = 1e-4;  // of the tensor's largest entry

struct Errors {
  double logits = 0, loss = 0, gradients = 0;
  std::string worst_gradient;
  std::int64_t wrong_picks = 0;
  std::vector<std::string> problems;
};

double worst_difference(const std::vector<float>& got, const std::vector<double>& expected) {
  if (got.size() < expected.size()) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < expected.size(); i++) {
    const double d = std::fabs(double(got[i]) - expected[i]);
    worst = d <= worst ? worst : d;  // a NaN counts as worst
  }
  return worst;
}

class GoldenRun {
 public:
  GoldenRun(const GoldenCase& g, engine::Device device)
      : golden_(g), store_(device, DType::f32), gpt_(g.config, store_), stream_(device) {
    store_.seal(true);
    load_params();
    const engine::Shape rows{g.batch * g.length};
    ids_ = Tensor::persistent(device, rows, DType::i32);
    targets_ = Tensor::persistent(device, rows, DType::i32);
    stream_.copy(ids_.data(), g.ids.data(), ids_.bytes());
    stream_.copy(targets_.data(), g.targets.data(), targets_.bytes());
    stream_.wait();
  }

  Errors run() {
    perform([&](engine::Context& context, bool real) { loss_and_gradients(context, real); });
    perform([&](engine::Context& context, bool real) { compare_logits(context, real); });
    if (golden_.config.attention == model::Attention::nsa)
      perform([&](engine::Context& context, bool real) { compare_picks(context, real); });
    return errors_;
  }

 private:
  void load_params() {
    std::set<std::string> missing;
    for (const auto& p : store_.all()) missing.insert(p.name);
    for (const auto& [name, tensor] : golden_.params) {
      engine::Param* p = store_.find(name);
      if (!p || p->file_shape.numel() != std::int64_t(tensor.values.size())) {
        errors_.problems.push_back("parameter " + name + " does not fit the model");
        continue;
      }
      missing.erase(name);
      const std::vector<float> values(tensor.values.begin(), tensor.values.end());
      store_.set(*p, values.data(), stream_);
    }
    for (const auto& name : missing) errors_.problems.push_back("parameter " + name + " is not in the case");
  }

  template <class F> void perform(F&& pass) {
    engine::Arena arena{stream_.device()};
    engine::Context context{stream_, arena};
    pass(context, false);
    arena.commit();
    store_.begin_step();
    pass(context, true);
  }

  void loss_and_gradients(engine::Context& context, bool real) {
    const double count = double(golden_.batch * golden_.length);
    Tape tape(context);
    const Tensor losses = gpt_.losses(tape, ids_, targets_, golden_.batch, float(1 / count));
    double sum = 0;
    if (real)
      for (float loss : losses.to_host(stream_)) sum += double(loss);
    tape.backward(losses);
    if (!real) return;
    errors_.loss = std::fabs(sum / count - golden_.loss.values.at(0));
    for (const auto& p : store_.all()) {
      const auto found = golden_.gradients.find(p.name);
      if (found == golden_.gradients.end()) {
        errors_.problems.push_back("no gradient of " + p.name + " in the case");
        continue;
      }
      double largest = 0;
      for (double v : found->second.values) largest = std::max(largest, std::fabs(v));
      const double error =
          worst_difference(p.grad.to_host(stream_), found->second.values) / std::max(largest, 1e-30);
      if (!(error <= errors_.gradients)) errors_.gradients = error, errors_.worst_gradient = p.name;
    }
  }

  void compare_logits(engine::Context& context, bool real) {
    Tape tape(context, Tape::Mode::infer);
    const Tensor logits = gpt_.logits(tape, gpt_.hidden(tape, ids_, golden_.batch));
    if (!real) return;
    const auto padded = logits.to_host(stream_);
    const std::int64_t vocab = golden_.config.vocab, row = golden_.config.padded_vocab();
    std::vector<float> got;
    for (std::int64_t r = 0; r < golden_.batch * golden_.length; r++)
      got.insert(got.end(), padded.begin() + r * row, padded.begin() + r * row + vocab);
    errors_.logits = worst_difference(got, golden_.logits.values);
  }

  // Layer 0's attention once more, through the op that tells its picks.
  void compare_picks(engine::Context& context, bool real) {
    namespace ops = engine::ops;
    const auto& c = golden_.config;
    auto param = [&](const char* name) { return store_.find(std::string("layers.0.0.") + name); };
    Tape tape(context, Tape::Mode::infer);
    const Tensor x = ops::embedding(tape, ids_, *store_.find("token_emb.weight"));
    const Tensor y = ops::rmsnorm(tape, x, *param("norm.weight"), c.kNormEps);
    const Tensor qkv = ops::linear(tape, y, *param("to_qkv.weight"));
    const Tensor gates =
        ops::linear(tape, y, *param("to_strategy_combine.0.weight"), param("to_strategy_combine.0.bias"));
    const engine::NsaParams nsa{.memory = param("compress_mem_kv"),
                                .place_k = param("k_intrablock_positions"),
                                .place_v = param("v_intrablock_positions"),
                                .compress_k = param("k_compress.1.weight"),
                                .compress_v = param("v_compress.1.weight"),
                                .bias_k = param("k_compress.1.bias"),
                                .bias_v = param("v_compress.1.bias")};
    Tensor selected;
    const Tensor rope = ops::rope_table(tape, golden_.length, c.heads.dim, c.rope_base);
    ops::sparse_attention(tape, qkv, gates, rope, nsa, c.heads, c.nsa, golden_.batch, &selected);
    if (!real) return;
    const auto& expected = golden_.selected.values;
    if (std::size_t(selected.numel()) != expected.size()) {
      errors_.wrong_picks = std::int64_t(expected.size());
      return;
    }
    std::vector<std::int32_t> picks(expected.size());
    stream_.copy(picks.data(), selected.data(), selected.bytes());
    stream_.wait();
    for (std::size_t i = 0; i < expected.size(); i++) errors_.wrong_picks += picks[i] != int(expected[i]);
  }

  const GoldenCase& golden_;
  engine::ParamStore store_;
  model::Gpt gpt_;
  engine::Stream stream_;
  Tensor ids_, targets_;
  Errors errors_;
};

// Runs every case of the manifest whose rules are built, and prints a line each.
void check_goldens(engine::Device device, const char* where) {
  const auto folder = tests::golden_dir();
  INFO("folder: ", folder.string());
  REQUIRE(std::filesystem::exists(folder / "manifest.json"));
  std::int64_t ran = 0;
  for (const auto& name : tests::golden_names(folder)) {
    CAPTURE(name);
    GoldenCase g;
    try {
      g = tests::read_golden(folder, name);
    } catch (const std::exception& unreadable) {
      std::printf("golden %s%s: FAILED (%s)\n", name.c_str(), where, unreadable.what());
      FAIL_CHECK(unreadable.what());
      continue;
    }
    if (!g.unsupported.empty()) {
      std::printf("golden %s%s: skipped (%s)\n", name.c_str(), where, g.unsupported.c_str());
      continue;
    }
    ran++;
    const Errors e = GoldenRun(g, device).run();
    const bool ok = e.problems.empty() && e.logits <= kLogits && e.loss <= kLoss &&
                    e.gradients <= kGradients && e.wrong_picks == 0;
    std::printf("golden %s%s: %s, logits %.1e, loss %.1e, gradients %.1e\n", name.c_str(), where,
                ok ? "ok" : "FAILED", e.logits, e.loss, e.gradients);
    for (const auto& problem : e.problems) FAIL_CHECK(problem);
    CHECK(e.logits <= kLogits);
    CHECK(e.loss <= kLoss);
    CAPTURE(e.worst_gradient);
    CHECK(e.gradients <= kGradients);
    CHECK(e.wrong_picks == 0);
  }
  CHECK(ran > 0);
}

}  // namespace

TEST_CASE("golden") { check_goldens({}, ""); }

TEST_CASE("golden on a card" *
          doctest::skip(tests::lacks("golden on a card", engine::cuda_device_count() == 0, "no CUDA card"))) {
  check_goldens({engine::DeviceKind::cuda, 0}, " on a card");
}
