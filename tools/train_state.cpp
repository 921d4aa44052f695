#include "tools/train_state.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "engine/error.h"

namespace tools {

using nlohmann::json;

namespace {

void get_loss(const json& value, double& loss) {
  if (value.is_null()) loss = std::numeric_limits<double>::quiet_NaN();
  else value.get_to(loss);
}

}  // namespace

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
    const json j = json::parse(text);
    j.at("step").get_to(s.state.step);
    j.at("tokens").get_to(s.state.tokens);
    j.at("next_sample").get_to(s.state.next_sample);
    j.at("evaluation_due").get_to(s.state.evaluation_due);
    j.at("best_validation").get_to(s.state.best_validation);
    get_loss(j.at("last_validation"), s.state.last_validation);
    get_loss(j.at("last_loss"), s.state.last_loss);
    j.at("data_fingerprint").get_to(s.data_fingerprint);
    j.at("validation_fingerprint").get_to(s.validation_fingerprint);
    j.at("vocab_sha256").get_to(s.vocab_sha256);
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
