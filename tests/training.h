// Runs of train_gpt as a program: on a text of the tests' own, stopped and killed at will, compared to the
// bit.
#pragma once
#include <sys/types.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tests/support.h"

namespace tests {

Ran train(const std::string& arguments);  // ./train_gpt ARGUMENTS

// Flags of a very small model on a token file whose documents have very unequal lengths, made once: 108
// windows of 32 tokens to train on, about 2 ms a step.
std::string small_run();

// `inspect info --hash`: SHA-256 over the names and bytes of all tensors.
std::string hash_of(const std::filesystem::path& checkpoint);
bool verifies(const std::filesystem::path&);  // `inspect verify`
nlohmann::json state_of(const std::filesystem::path& checkpoint);

std::vector<std::string> lines_of(const std::string& text);
// The log's steps and evaluations without what depends on the clock. Every line must be whole.
std::vector<nlohmann::json> logged(const std::filesystem::path& log);
// Of these, the steps: what was trained, whatever was evaluated in between.
std::vector<nlohmann::json> trained(const std::filesystem::path& log);
// Of a log, the samples: step and text.
std::vector<std::pair<std::int64_t, std::string>> samples_in(const std::filesystem::path& log);
std::vector<std::string> names_in(const std::filesystem::path& folder);  // sorted

// A train_gpt that is still running; its output goes to FOLDER/out and FOLDER/err.
class Training {
 public:
  Training(const std::string& arguments, const std::filesystem::path& folder);
  ~Training();  // kills it if it still runs
  Training(const Training&) = delete;
  Training& operator=(const Training&) = delete;

  pid_t pid() const noexcept { return pid_; }
  bool running();
  void signal(int number) const;
  // Its exit status, or minus the signal that ended it.
  int wait();

 private:
  pid_t pid_;
  bool ended_ = false;
  int status_ = 0;
};

}  // namespace tests
