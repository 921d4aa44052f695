// The `state` of a checkpoint: where the run stands, its flags, and which data it reads.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "data/token_file.h"
#include "engine/checkpoint.h"
#include "tools/train_flags.h"

namespace tools {

// Where a run stands; what a checkpoint keeps beside the tensors.
struct TrainState {
  std::int64_t step = 0, tokens = 0;
  std::uint64_t next_sample = 0;  // of the endless shuffled sequence of windows
  bool evaluation_due = false;    // after `step`, and a signal came first
  double best_validation = 0;     // 0: none yet
  double last_loss = 0;
  double last_validation = 0;  // 0: none yet
};

struct SavedState {
  TrainState state;
  TrainFlags flags;
  std::string data_fingerprint, validation_fingerprint, vocab_sha256;
};
// Losses that are not finite are written as null.
std::string to_json(const SavedState&);
SavedState saved_state_from_json(std::string_view json,
                                 const std::string& where);  // throws Error(checkpoint)

// Throws Error(checkpoint) if the model's ids mean other words than the data's.
void require_same_vocabulary(const engine::Checkpoint&, const data::TokenFile&);

}  // namespace tools
