// The bundled text as a token file and a very small model trained on it, made once for the tests of the
// programs.
#pragma once
#include <string>

#include "tests/support.h"

namespace tests {

class TrainedModel {
 public:
  static const TrainedModel& get();
  std::string data() const { return quoted("zhwiki.bin"); }
  std::string checkpoint() const { return quoted("ckpt.bin"); }
  std::filesystem::path folder() const { return folder_.path(); }
  const Ran& training() const { return training_; }
  // Flags of the model that was trained, for more runs of train_gpt.
  static std::string flags();

 private:
  TrainedModel();
  std::string quoted(const char* name) const { return "'" + (folder_ / name).string() + "'"; }
  TempDir folder_;
  Ran training_;
};

// That a program failed as it should: this exit code, nothing on stdout, one line "program: ..." on stderr.
void check_refused(const Ran&, const std::string& program, int code, const std::string& mentions);

}  // namespace tests
