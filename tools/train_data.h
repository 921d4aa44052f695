// What a run trains and validates on: the token files of -d and --val-data.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/mixture.h"
#include "data/token_file.h"
#include "tools/train_flags.h"

namespace tools {

struct DataSource {
  std::string path;
  double weight = 0;  // 0: not stated
};
// The value of -d, FILE[:WEIGHT],... A name may hold any character: the longest that exists is taken. Throws
// Error(usage) for an empty name, a weight outside 1e-9 .. 1e9, weights for some files only, and more than
// 256 files.
std::vector<DataSource> parse_data(const std::string& value);

struct TokenFiles {  // opened, all with one vocabulary
  std::vector<std::unique_ptr<data::TokenFile>> training;
  std::vector<double> weights;                  // of these; empty: none was stated
  std::unique_ptr<data::TokenFile> validation;  // of --val-data, or nullptr
  const data::TokenFile& vocabulary() const { return *training.front(); }
};
// Throws Error(data) for what is no token file, and Error(checkpoint) naming two of another vocabulary, or of
// the same one under other rules (--cased, --compat).
TokenFiles open_token_files(const TrainFlags&);

class TrainData {
 public:
  // `flags` are complete (see resolve()). Throws Error(data) for a file whose training part is shorter than a
  // window.
  TrainData(TokenFiles, const TrainFlags& flags);

  const data::TokenFile& vocabulary() const { return files_.vocabulary(); }
  const data::Mixture& training() const noexcept { return training_; }
  data::Mixture& training() noexcept { return training_; }

  // The validation parts of all files one after the other, or all of --val-data; of them the first
  // --eval-tokens targets, from each in proportion. Every target is in one window.
  std::uint64_t validation_windows() const noexcept { return validation_windows_; }
  std::uint64_t validation_targets() const noexcept { return validation_targets_; }
  double validation_bytes() const noexcept { return validation_bytes_; }  // of text, that these targets are
  void read_validation(std::uint64_t window, std::span<std::int32_t> ids,
                       std::span<std::int32_t> targets) const;

  // Tells whether two runs have the same files in the same order and shares; for one file it is the file's.
  std::string fingerprint() const;
  std::string validation_fingerprint() const;  // of --val-data, or empty

  // The lines "data ..." of a run of so many windows.
  void print(double windows) const;

 private:
  TokenFiles files_;
  data::Mixture training_;
  std::vector<data::Windows> validation_;
  std::uint64_t validation_windows_ = 0, validation_targets_ = 0;
  double validation_bytes_ = 0;
};

}  // namespace tools
