#include "tools/train_data.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>

#include "engine/error.h"
#include "tools/cli.h"
#include "tools/train_log.h"

namespace tools {

using engine::Exit;
using engine::require;

namespace {

constexpr std::size_t kMostFiles = 256;
constexpr double kLeastWeight = 1e-9, kMostWeight = 1e9;

// NAME:WEIGHT, if what follows the last colon is a number, whether it may be a weight or not.
std::optional<DataSource> weighted(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == text.npos || colon == 0) return std::nullopt;
  const char *from = text.data() + colon + 1, *end = text.data() + text.size();
  double weight = 0;  // too large or too small for a double: none that is allowed
  const auto [stop, error] = std::from_chars(from, end, weight);
  if (from == end || stop != end || error == std::errc::invalid_argument) return std::nullopt;
  return DataSource{std::string(text.substr(0, colon)), weight};
}

// The source at the beginning of `rest`, which moves behind it.
DataSource next_source(std::string_view& rest) {
  std::string_view text;
  std::optional<DataSource> source;
  for (std::size_t end = rest.size(); end != rest.npos && !source; end = rest.rfind(',', end - 1)) {
    text = rest.substr(0, end);
    source = weighted(text);
    if (exists(std::string(text))) source = DataSource{std::string(text)};
    else if (source && !exists(source->path)) source.reset();
  }
  if (!source) {  // opening it will fail
    text = rest.substr(0, rest.find(','));
    source = weighted(text).value_or(DataSource{std::string(text)});
    const std::string name(text.substr(0, text.rfind(':')));
    require(source->path == name || !exists(name), Exit::usage,
            "-d {}: there is no such file; for {} with a weight, expected a number behind the colon", text,
            name);
  }
  require(source->path == text || (source->weight >= kLeastWeight && source->weight <= kMostWeight),
          Exit::usage, "-d {}: expected a weight from {} to {} behind the colon", text, kLeastWeight,
          kMostWeight);
  rest.remove_prefix(text.size());
  return *source;
}

// Windows of a range of a file's tokens, and the text that the range stands for.
struct Part {
  const data::TokenFile& file;
  std::uint64_t first, targets, text_bytes, tokens;  // the text's bytes and tokens, of the whole range
};

Part part_of(const data::TokenFile& file, std::uint64_t first, std::uint64_t text_bytes) {
  const std::uint64_t tokens = file.size() - first;
  return {file, first, tokens < 2 ? 0 : tokens - 1, text_bytes, std::max<std::uint64_t>(tokens, 1)};
}

void limit(std::vector<Part>& parts, double most) {
  double all = 0, before = 0, taken = 0;
  for (const Part& part : parts) all += double(part.targets);
  if (all <= most) return;
  for (Part& part : parts) {
    before += double(part.targets);
    const double until = std::round(most * before / all);
    part.targets = std::min(part.targets, std::uint64_t(until - taken));
    taken = until;
  }
}

data::Mixture training_of(const TokenFiles& files, const TrainFlags& flags) {
  std::vector<data::Windows> parts;
  for (const auto& file : files.training) {
    const auto& windows = parts.emplace_back(*file, 0, file->validation_from(), std::uint64_t(flags.length));
    require(windows.whole() > 0, Exit::data,
            "{}: its training part has {} tokens, one window needs {}; use a smaller -t or more text",
            file->path(), file->validation_from(), flags.length + 1);
  }
  auto shares = files.weights.empty() ? std::vector<std::uint64_t>() : data::shares_of(files.weights);
  return {std::move(parts), std::move(shares), std::uint64_t(flags.seed)};
}

}  // namespace

std::vector<DataSource> parse_data(const std::string& value) {
  require(std::size_t(std::ranges::count(value, ',')) < kMostFiles, Exit::usage,
          "-d: more than {} files; prepare takes several inputs for one file", kMostFiles);
  std::vector<DataSource> sources;
  std::string_view rest = value;
  while (true) {
    require(!rest.empty() && rest.front() != ',', Exit::usage,
            "-d {}: an empty name; expected FILE[:WEIGHT][,FILE[:WEIGHT]...]", value);
    sources.push_back(next_source(rest));
    if (rest.empty()) break;
    rest.remove_prefix(1);
  }
  const auto stated = std::ranges::count_if(sources, [](const DataSource& s) { return s.weight > 0; });
  require(stated == 0 || std::size_t(stated) == sources.size(), Exit::usage,
          "-d {}: {} of {} files have a weight; give each one or none", value, stated, sources.size());
  return sources;
}

TokenFiles open_token_files(const TrainFlags& flags) {
  TokenFiles files;
  const auto open = [&](const std::string& path) {
    auto file = std::make_unique<data::TokenFile>(path);
    if (files.training.empty()) return file;
    const data::TokenFile& first = files.vocabulary();
    require(
        file->tokenizer_payload() == first.tokenizer_payload() && file->vocab_size() == first.vocab_size(),
        Exit::checkpoint,
        "{}: was made with another vocabulary or other rules than {}; prepare both with the same ones", path,
        first.path());
    return file;
  };
  for (const DataSource& source : parse_data(flags.data)) {
    files.training.push_back(open(source.path));
    if (source.weight > 0) files.weights.push_back(source.weight);
  }
  if (!flags.validation_data.empty()) files.validation = open(flags.validation_data);
  return files;
}

TrainData::TrainData(TokenFiles files, const TrainFlags& flags)
    : files_(std::move(files)), training_(training_of(files_, flags)) {
  std::vector<Part> parts;
  if (const data::TokenFile* other = files_.validation.get())
    parts.push_back(part_of(*other, 0, other->text_bytes_train() + other->text_bytes_validation()));
  else
    for (const auto& file : files_.training)
      parts.push_back(part_of(*file, file->validation_from(), file->text_bytes_validation()));
  if (flags.eval_tokens > 0) limit(parts, double(flags.eval_tokens));
  for (const Part& part : parts) {
    validation_.emplace_back(part.file, part.first, part.first + part.targets + 1,
                             std::uint64_t(flags.length));
    validation_windows_ += validation_.back().all();
    validation_targets_ += part.targets;
    validation_bytes_ += double(part.text_bytes) * double(part.targets) / double(part.tokens);
  }
}

void TrainData::read_validation(std::uint64_t window, std::span<std::int32_t> ids,
                                std::span<std::int32_t> targets) const {
  auto part = validation_.begin();
  for (; window >= part->all(); ++part) window -= part->all();
  part->read(window, ids, targets);
}

std::string TrainData::fingerprint() const {
  std::string all;
  for (std::size_t i = 0; i < files_.training.size(); i++) {
    if (i > 0) all += ',';
    all += files_.training[i]->fingerprint();
    if (files_.training.size() > 1) all += fmt::format(":{}", training_.order().shares()[i]);
  }
  return all;
}

std::string TrainData::validation_fingerprint() const {
  return files_.validation ? files_.validation->fingerprint() : std::string();
}

void TrainData::print(double windows) const {
  const auto number = [](std::uint64_t n) { return with_commas(std::int64_t(n)); };
  std::uint64_t tokens = 0;
  for (const auto& file : files_.training) tokens += file->validation_from();
  const std::size_t count = files_.training.size();
  say("data       {}: {} tokens to train on, {} to validate on; vocabulary {}\n",
      count == 1 ? vocabulary().path() : fmt::format("{} files", count), number(tokens),
      number(validation_targets_), number(vocabulary().vocab_size()));
  for (std::size_t i = 0; i < count; i++) {
    const double share = training_.order().share(i), of_part = double(training_.parts()[i].whole());
    if (count > 1)
      say("           {}: {} tokens, {} windows, weight {:.4g}{}, {:.2f} epochs\n",
          files_.training[i]->path(), number(files_.training[i]->validation_from()),
          number(training_.parts()[i].whole()), files_.weights.empty() ? share : files_.weights[i],
          files_.weights.empty() ? " (by size)" : fmt::format(" = {:.1f} %", 100 * share),
          windows * share / of_part);
  }
}

}  // namespace tools
