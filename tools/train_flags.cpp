#include "tools/train_flags.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include "data/utf8.h"
#include "engine/json_fields.h"
#include "tools/cli.h"

namespace tools {

using engine::Exit;
using engine::fail;
using engine::require;
using nlohmann::json;

namespace {

constexpr std::int64_t kMany = std::int64_t(1) << 31;

// Every flag that a checkpoint keeps, by name: one list for writing and for reading.
template <class Flags, class F> void each_kept(Flags& f, F&& visit) {
  visit("data", f.data);
  visit("val-data", f.validation_data);
  visit("preset", f.preset);
  visit("layers", f.layers);
  visit("width", f.width);
  visit("heads", f.heads);
  visit("kv-heads", f.kv_heads);
  visit("head-dim", f.head_dim);
  visit("ffn", f.ffn);
  visit("ffn-kind", f.ffn_kind);
  visit("attn", f.attention);
  visit("tied", f.tied);
  visit("diff-topk", f.diff_topk);
  visit("block", f.block);
  visit("select", f.select);
  visit("window", f.window);
  visit("memory", f.memory);
  visit("rope-theta", f.rope_theta);
  visit("steps", f.steps);
  visit("batch", f.batch);
  visit("seq-len", f.length);
  visit("accum", f.accumulation);
  visit("lr", f.learning_rate);
  visit("warmup", f.warmup);
  visit("schedule", f.schedule);
  visit("final-lr-frac", f.final_fraction);
  visit("weight-decay", f.weight_decay);
  visit("beta1", f.beta1);
  visit("beta2", f.beta2);
  visit("eps", f.eps);
  visit("clip", f.clip);
  visit("dtype", f.dtype);
  visit("recompute", f.recompute);
  visit("on-nonfinite", f.on_nonfinite);
  visit("seed", f.seed);
  visit("eval-every", f.eval_every);
  visit("eval-tokens", f.eval_tokens);
  visit("sample-every", f.sample_every);
  visit("save-every", f.save_every);
  visit("keep", f.keep);
  visit("prompt", f.prompt);
  visit("device", f.device);
  visit("threads", f.threads);
  visit("log", f.log);
}

void declare_model(CLI::App& app, TrainFlags& f) {
  app.add_option("--preset", f.preset, "Model to start from; 'list' prints them")->group("model");
  const auto size = [&](const char* names, std::int64_t& value, std::int64_t low, std::int64_t high,
                        const char* about) {
    add_integer(app, names, value, low, high, about)->default_str("the preset's")->group("model");
  };
  size("--layers", f.layers, 1, 4096, "Number of layers");
  size("--width", f.width, 1, 1 << 20, "Width of the residual stream");
  size("--heads", f.heads, 1, 4096, "Query heads");
  size("--kv-heads", f.kv_heads, 1, 4096, "Key/value heads, a divisor of --heads");
  size("--head-dim", f.head_dim, 2, 1024, "Features of a head");
  size("--ffn", f.ffn, 1, 1 << 24, "Width inside the feed-forward layer");
  add_choice(app, "--ffn-kind", f.ffn_kind, {"gelu", "swiglu"}, "Non-linearity")
      ->default_str("the preset's")
      ->group("model");
  app.add_flag("--tied", f.tied, "Share the embedding with the head")->group("model");
  add_choice(app, "--attn", f.attention, {"nsa", "dense"}, "Kind of attention")
      ->default_str("the preset's")
      ->group("model");
  size("--block", f.block, 1, 4096, "Tokens of a compressed and selected block");
  size("--select", f.select, 0, 1024, "Blocks selected a query");
  size("--window", f.window, 0, 1 << 20, "Earlier tokens that the sliding window sees");
  app.add_option_function<std::string>(
         "--memory",
         [&f](const std::string& rows) {
           if (rows.empty()) f.plan_only = true;
           else f.memory = parse_integer("--memory", rows, 1, 4096);
         },
         "With N: learned memory rows of the compressed branch; alone: print the memory plan and exit")
      ->expected(0, 1)
      ->type_name("[N]")
      ->group("model");
  app.add_flag("--diff-topk", f.diff_topk, "Let gradients flow into the choice of blocks")->group("model");
  add_real(app, "--rope-theta", f.rope_theta, 1, 1e12, "Base of the rotary positions")
      ->default_str("10000")
      ->group("model");
}

void declare_training(CLI::App& app, TrainFlags& f) {
  const auto group = [&](CLI::Option* option) { return option->group("training"); };
  group(add_size(app, "-x,--steps", f.steps, 1, kMany, "Optimizer steps"));
  group(add_size(app, "-b,--batch", f.batch, 1, 1 << 20, "Sequences of a micro-batch"))
      ->default_str("the preset's");
  group(add_size(app, "-t,--seq-len", f.length, 1, 1 << 30, "Tokens of a sequence"))
      ->default_str("the preset's");
  group(add_size(app, "--accum", f.accumulation, 1, 1 << 20, "Micro-batches of a step"))
      ->default_str("the preset's");
  group(add_real(app, "-l,--lr", f.learning_rate, 0, 1e3, "Peak learning rate"));
  group(add_size(app, "-u,--warmup", f.warmup, 0, kMany, "Steps of linear warm-up"));
  group(add_choice(app, "-k,--schedule", f.schedule, {"cosine", "wsd", "linear", "constant"},
                   "Learning rate over time"));
  group(add_real(app, "-q,--final-lr-frac", f.final_fraction, 0, 1, "Share of the peak at the end"));
  group(add_real(app, "--weight-decay", f.weight_decay, 0, 1e3, "Decay of tensors of rank 2 and more"));
  group(add_real(app, "--beta1", f.beta1, 0, 0.999999, "AdamW's first moment"));
  group(add_real(app, "--beta2", f.beta2, 0, 0.99999999, "AdamW's second moment"));
  group(add_real(app, "--eps", f.eps, 0, 1, "AdamW's epsilon"));
  group(add_real(app, "--clip", f.clip, 0, 1e9, "Largest gradient norm; 0: no clipping"));
  group(add_choice(app, "--dtype", f.dtype, {"auto", "fp32", "bf16"},
                   "Precision; auto: bf16 on a card that is fast at it"));
  group(add_integer(app, "--seed", f.seed, 0, INT64_MAX, "Of start values and order of the data"));
  group(add_choice(app, "-r,--recompute", f.recompute, {"none", "block"},
                   "Run layers again in the backward pass to save memory"));
  group(add_choice(app, "--on-nonfinite", f.on_nonfinite, {"stop", "skip"}, "When a gradient is not finite"));
}

void declare_rhythm(CLI::App& app, TrainFlags& f) {
  const auto group = [&](CLI::Option* option) { return option->group("rhythm (0: off)"); };
  group(add_size(app, "-v,--eval-every", f.eval_every, 0, kMany, "Steps between evaluations"));
  group(add_size(app, "--eval-tokens", f.eval_tokens, 0, std::int64_t(1) << 50, "Validation tokens; 0: all"));
  group(add_size(app, "-s,--sample-every", f.sample_every, 0, kMany, "Steps between samples"));
  app.add_option("--prompt", f.prompt, "Start of the samples")->group("rhythm (0: off)");
  group(add_size(app, "-n,--save-every", f.save_every, 0, kMany, "Steps between checkpoints"));
  group(add_size(app, "--keep", f.keep, 0, 1 << 20, "Numbered checkpoints to keep beside the last"));
  group(add_real(app, "--max-minutes", f.max_minutes, 0, 1e9, "Save and stop after this time"));
  group(add_size(app, "--stop-at", f.stop_at, 0, kMany,
                 "Save and stop after this step; the schedule keeps --steps"));
}

void set_profile(TrainFlags& f, const std::string& steps) {
  const auto read = [](const char* from, const char* to, std::int64_t& value) {
    const auto [stop, error] = std::from_chars(from, to, value);
    return error == std::errc{} && stop == to && value > 0;
  };
  const char* start = steps.data();
  const std::size_t colon = steps.find(':');
  require(colon != std::string::npos && read(start, start + colon, f.profile_from) &&
              read(start + colon + 1, start + steps.size(), f.profile_to) && f.profile_from <= f.profile_to,
          Exit::usage, "--profile {}: expected A:B, the first and the last step to time, e.g. 10:12", steps);
}

}  // namespace

void declare(CLI::App& app, TrainFlags& f) {
  const auto file = [&app](const char* names, std::string& value, const char* about) {
    return refuse_empty(app.add_option(names, value, about))->type_name("FILE");
  };
  file("-d,--data", f.data, "Token files made by ./prepare, with or without weights")
      ->type_name("FILE[:weight][,FILE...]");
  file("--val-data", f.validation_data, "Token file to validate on, instead of the data's own part");
  file("-o,--out", f.out, "Checkpoint to write");
  declare_model(app, f);
  declare_training(app, f);
  declare_rhythm(app, f);
  app.add_option("--device", f.device, "auto, cpu, cuda or cuda:N")->group("run");
  app.add_flag("--no-graph", f.no_graph, "Launch kernel by kernel on a card, not a step at a time")
      ->group("run");
  app.add_flag("--check", f.check, "Wait after every launch and stop at the first value that is not finite")
      ->group("run");
  app.add_option_function<std::string>(
         "--profile", [&f](const std::string& steps) { set_profile(f, steps); },
         "Time steps A to B op by op and print the table")
      ->type_name("A:B")
      ->group("run");
  app.add_flag("--list-devices", f.list_devices, "Print the devices and exit")->group("run");
  add_integer(app, "--threads", f.threads, 0, 4096, "CPU threads; 0: all that this process may use")
      ->group("run");
  app.add_option_function<std::string>(
         "--resume",
         [&f](const std::string& how) {
           require(
               how.empty() || how == "auto", Exit::usage,
               "--resume {}: expected nothing or auto; the checkpoint to continue is the one that -o names",
               how);
           f.resume = how.empty() ? Resume::required : Resume::automatic;
         },
         "Continue the run of --out; =auto: start anew where there is none")
      ->expected(0, 1)
      ->type_name("[=auto]")
      ->group("run");
  file("--init-from", f.init_from, "Start from the weights of this checkpoint")->group("run");
  app.add_flag("--overwrite", f.overwrite, "Replace an existing --out")->group("run");
  app.add_flag("--dry-run", f.dry_run, "Check flags, data and memory, print them and exit")->group("run");
  app.add_flag("--quiet", f.quiet, "No progress display")->group("run");
  file("--log", f.log, "Log file; default beside --out")->type_name("FILE.jsonl")->group("run");
}

model::GptConfig resolve(TrainFlags& f, std::int64_t vocab) {
  const model::Preset& preset = model::find_preset(f.preset);
  model::GptConfig c = preset.config;
  c.vocab = vocab;
  const auto set = [](auto& field, auto flag, auto unset) {
    if (flag != unset) field = flag;
  };
  set(c.layers, f.layers, 0);
  set(c.width, f.width, 0);
  set(c.heads.query, f.heads, 0);
  c.heads.kv = f.kv_heads ? f.kv_heads : f.heads ? f.heads : c.heads.kv;
  set(c.heads.dim, f.head_dim, 0);
  set(c.ffn, f.ffn, 0);
  if (!f.ffn_kind.empty()) c.ffn_kind = f.ffn_kind == "gelu" ? model::FfnKind::gelu : model::FfnKind::swiglu;
  if (!f.attention.empty())
    c.attention = f.attention == "nsa" ? model::Attention::nsa : model::Attention::dense;
  if (f.tied) c.tied = true;
  set(c.nsa.block, f.block, 0);
  set(c.nsa.select, f.select, -1);
  set(c.nsa.window, f.window, -1);
  set(c.nsa.memory, f.memory, 0);
  if (f.diff_topk) c.nsa.diff_topk = true;
  if (f.rope_theta > 0) c.rope_base = float(f.rope_theta);
  f.prompt = data::repair_utf8(f.prompt);
  if (!f.length) f.length = c.context;
  if (!f.batch) f.batch = preset.batch;
  if (!f.accumulation) f.accumulation = preset.accumulation;
  c.context = f.length;
  const bool sparse_flag = f.block || f.select >= 0 || f.window >= 0 || f.memory || f.diff_topk;
  require(c.attention == model::Attention::nsa || !sparse_flag, Exit::usage,
          "--block, --select, --window, --memory N and --diff-topk belong to sparse attention; this model is "
          "dense, "
          "add --attn nsa or leave them out");
  c.validate();
  return c;
}

std::string to_json(const TrainFlags& flags) {
  json j;
  each_kept(flags, [&](const char* name, const auto& value) { j[name] = value; });
  return j.dump(-1, ' ', false, json::error_handler_t::replace);  // a file's name may be any bytes
}

TrainFlags flags_from_json(std::string_view text, const std::string& where) {
  TrainFlags flags;
  std::string damage, name_read;
  try {
    const json j = engine::parse_json(text, where);
    std::vector<std::string> arguments;
    each_kept(flags, [&](const char* name, const auto& unset) {
      name_read = name;
      std::decay_t<decltype(unset)> value{};
      engine::read_field(j, name, value, where);
      if (value == unset) return;
      arguments.push_back(fmt::format("--{}", name));
      if constexpr (!std::is_same_v<decltype(value), bool>) arguments.push_back(fmt::format("{}", value));
    });
    CLI::App app;  // values of a file have to pass what values of a command line do
    declare(app, flags);
    settle(app);
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
    app.parse(arguments);
    model::find_preset(flags.preset);
  } catch (const json::exception& e) {
    damage = fmt::format("{}: {}", name_read, e.what());
  } catch (const CLI::ParseError& e) {
    damage = e.what();
  } catch (const engine::Error& e) {
    damage = e.what();
  }
  require(damage.empty(), Exit::checkpoint, "{}: the flags of its run are damaged: {}", where, damage);
  return flags;
}

}  // namespace tools
