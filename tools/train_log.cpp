#include "tools/train_log.h"

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "tools/format.h"

namespace tools {

using engine::Exit;
using engine::fail;

namespace {

std::string number(double value) { return std::isfinite(value) ? fmt::format("{:.9g}", value) : "null"; }

// Bytes of the leading lines that speak of steps up to `through`, or up to the evaluation of that step if it
// is still due. A torn last line is cut with the rest.
std::uintmax_t bytes_through(const std::filesystem::path& path, std::int64_t through, bool evaluation_due) {
  std::ifstream in(path, std::ios::binary);
  std::uintmax_t bytes = 0;
  for (std::string line; std::getline(in, line) && !in.eof();) {
    const auto j = nlohmann::json::parse(line, nullptr, false);
    if (!j.is_object() || !j.contains("step") || !j["step"].is_number_unsigned()) break;
    const auto step = j["step"].get<std::uint64_t>(), last = std::uint64_t(through);
    if (step > last || (step == last && evaluation_due && j.contains("val_loss"))) break;
    bytes += line.size() + 1;
  }
  return bytes;
}

}  // namespace

std::string duration(double seconds) {
  const auto s = std::int64_t(seconds + 0.5);
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
}

std::string mebibytes(std::uint64_t bytes) { return fmt::format("{:.1f} MiB", double(bytes) / (1 << 20)); }

TrainLog::TrainLog(std::filesystem::path path, const LogStart& start)
    : path_(std::move(path)), quiet_(start.quiet), progress_(!start.quiet) {
  std::error_code absent;
  const auto size = std::filesystem::file_size(path_, absent);
  const std::uintmax_t keep =
      absent || start.keep_through == 0 ? 0 : bytes_through(path_, start.keep_through, start.evaluation_due);
  file_ = std::fopen(path_.c_str(), "ab");
  if (!file_ || (!absent && keep != size && ftruncate(fileno(file_), off_t(keep)) != 0))
    fail(Exit::io, "{}: the log cannot be written: {}; name another with --log", path_.string(),
         std::strerror(errno));
}

TrainLog::~TrainLog() {
  if (file_) std::fclose(file_);
}

double TrainLog::elapsed() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void TrainLog::write(const std::string& line) {
  if (std::fwrite(line.data(), 1, line.size(), file_) != line.size() || std::fflush(file_) != 0)
    fail(Exit::io, "{}: the log cannot be written: {}; free some space and --resume", path_.string(),
         std::strerror(errno));
}

void TrainLog::step(const StepReport& r) {
  if (first_step_ == 0) first_step_ = r.step;
  const double each = elapsed() / double(r.step - first_step_ + 1), speed = double(r.step_tokens) / r.seconds;
  const double left = each * double(r.steps - r.step);
  const bool known = r.peak_flops > 0;
  const double use = known ? r.flops / r.seconds / r.peak_flops : 0;
  progress_.update(
      {.step = r.step, .steps = r.steps, .loss = r.loss, .tokens_per_second = speed, .seconds_left = left});
  if (!quiet_ && !progress_.shown())
    say("step {}/{} | loss {:.4f} | norm {:.2f} | lr {:.2e} | {:.1f} ms | {} tok/s | mfu {} | eta {}\n",
        r.step, r.steps, r.loss, r.grad_norm, r.learning_rate, 1e3 * r.seconds,
        with_commas(std::int64_t(speed)), known ? fmt::format("{:.1f}%", 100 * use) : "n/a", duration(left));
  write(
      fmt::format("{{\"step\":{},\"tokens\":{},\"epoch\":{},\"loss\":{},\"grad_norm\":{},\"lr\":{},\"ms\":{},"
                  "\"tok_s\":{},\"mfu\":{},\"mem_gb\":{},\"time\":{}}}\n",
                  r.step, r.tokens, r.epoch, number(r.loss), number(r.grad_norm), number(r.learning_rate),
                  number(1e3 * r.seconds), number(speed), known ? number(use) : "null",
                  number(double(r.memory_bytes) / (1 << 30)), number(elapsed())));
}

void TrainLog::validation(const ValidationReport& r) {
  progress_.clear();
  say("val {} | loss {:.4f} | bpb {:.4f} | ppl {:.1f}\n", r.step, r.loss, r.bits_per_byte, std::exp(r.loss));
  write(fmt::format("{{\"step\":{},\"tokens\":{},\"epoch\":{},\"val_loss\":{},\"bpb\":{},\"time\":{}}}\n",
                    r.step, r.tokens, r.epoch, number(r.loss), number(r.bits_per_byte), number(elapsed())));
}

void TrainLog::sample(std::int64_t step, const std::string& text) {
  progress_.clear();
  say("sample {} | {}\n", step, printable(text));
  event(step, "sample", text);
}

void TrainLog::event(std::int64_t step, const char* event, const std::string& detail) {
  const nlohmann::json text(detail);
  write(fmt::format("{{\"step\":{},\"event\":\"{}\",\"detail\":{},\"time\":{}}}\n", step, event,
                    text.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), number(elapsed())));
}

}  // namespace tools
