// The command line of train_gpt: flags, their JSON form in checkpoints, and the model that they describe.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "model/config.h"

namespace tools {

enum class Resume : std::uint8_t { no, required, automatic };

struct TrainFlags {
  std::string data, validation_data, out = "ckpt.bin";
  // model; 0 and empty: the preset's
  std::string preset = "seed";
  std::int64_t layers = 0, width = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0;
  std::string ffn_kind, attention;
  bool tied = false, diff_topk = false;
  std::int64_t block = 0, select = -1, window = -1, memory = 0;
  double rope_theta = 0;
  // training
  std::int64_t steps = 2000, batch = 0, length = 0, accumulation = 0;
  double learning_rate = 6e-4;
  std::int64_t warmup = 100;
  std::string schedule = "cosine";
  double final_fraction = 0.1, weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, clip = 0.5;
  std::string dtype = "auto", recompute = "none", on_nonfinite = "stop";
  std::int64_t seed = 1;
  // rhythm
  std::int64_t eval_every = 250, eval_tokens = 0, sample_every = 500, save_every = 500, keep = 0, stop_at = 0;
  double max_minutes = 0;
  std::string prompt;
  // run
  std::string device = "auto", log, init_from;
  Resume resume = Resume::no;
  std::int64_t threads = 0;
  bool overwrite = false, quiet = false, list_devices = false, plan_only = false, dry_run = false,
       no_graph = false, check = false;
  std::int64_t profile_from = 0, profile_to = 0;  // steps to time op by op; 0: none
};

// Values already in `flags` are the defaults.
void declare(CLI::App&, TrainFlags& flags);
// Fills batch, length and accumulation from the preset where they were not given, and returns the model.
model::GptConfig resolve(TrainFlags& flags, std::int64_t vocab);

// What a resumed run takes over: everything but --out, --stop-at, --max-minutes, --quiet and what tells how
// to start.
std::string to_json(const TrainFlags&);
TrainFlags flags_from_json(std::string_view json, const std::string& where);  // throws Error(checkpoint)

}  // namespace tools
