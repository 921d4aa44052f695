// The `state` of a checkpoint: where the run stands, its flags, and which data it reads.
#pragma once
#include <string>
#include <string_view>

#include "tools/train_flags.h"
#include "tools/train_run.h"

namespace tools {

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
