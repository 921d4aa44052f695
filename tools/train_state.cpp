#include "tools/train_state.h"

#include <limits>

#include "engine/json_fields.h"

namespace tools {

using nlohmann::json;

std::string to_json(const SavedState& s) {
  const json j{{"step", s.state.step},
               {"tokens", s.state.tokens},
               {"next_sample", s.state.next_sample},
               {"evaluation_due", s.state.evaluation_due},
               {"best_validation", s.state.best_validation},
               {"last_validation", s.state.last_validation},
               {"last_loss", s.state.last_loss},
               {"data_fingerprint", s.data_fingerprint},
               {"validation_fingerprint", s.validation_fingerprint},
               {"vocab_sha256", s.vocab_sha256},
               {"flags", json::parse(to_json(s.flags))}};
  return j.dump();
}

SavedState saved_state_from_json(std::string_view text, const std::string& where) {
  SavedState s;
  try {
    const json j = engine::parse_json(text, where);
    const auto read = [&](const char* name, auto& value) { engine::read_field(j, name, value, where); };
    const auto read_loss = [&](const char* name, double& loss) {  // null: not finite
      if (j.at(name).is_null()) loss = std::numeric_limits<double>::quiet_NaN();
      else read(name, loss);
    };
    read("step", s.state.step);
    read("tokens", s.state.tokens);
    read("next_sample", s.state.next_sample);
    read("evaluation_due", s.state.evaluation_due);
    read("best_validation", s.state.best_validation);
    read_loss("last_validation", s.state.last_validation);
    read_loss("last_loss", s.state.last_loss);
    read("data_fingerprint", s.data_fingerprint);
    read("validation_fingerprint", s.validation_fingerprint);
    read("vocab_sha256", s.vocab_sha256);
    s.flags = flags_from_json(j.at("flags").dump(), where);
  } catch (const json::exception& e) {
    engine::fail(engine::Exit::checkpoint, "{}: the state of its run is damaged: {}", where, e.what());
  }
  engine::require(s.state.step >= 0 && s.state.tokens >= 0, engine::Exit::checkpoint,
                  "{}: the state of its run is damaged: step {}", where, s.state.step);
  return s;
}

void require_same_vocabulary(const engine::Checkpoint& checkpoint, const data::TokenFile& data) {
  engine::require(
      checkpoint.tokenizer() == data.tokenizer_payload(), engine::Exit::checkpoint,
      "{}: has another vocabulary than {}; give the data that it was trained on, or data prepared "
      "with the same vocabulary",
      checkpoint.path(), data.path());
}

}  // namespace tools
