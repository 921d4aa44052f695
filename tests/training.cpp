#include "tests/training.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <random>
#include <sstream>
#include <stdexcept>

namespace tests {

using nlohmann::json;

namespace {

std::string character(unsigned index) {  // one of a hundred, as UTF-8
  const unsigned code = 0x4e00 + index % 100;
  return {char(0xe0 | code >> 12), char(0x80 | (code >> 6 & 0x3f)), char(0x80 | (code & 0x3f))};
}

class SmallData {
 public:
  SmallData() {
    std::mt19937 bits(5);
    std::string text;
    for (int document = 0; document < 90; document++) {
      const unsigned lengths[] = {1, 3, 9, 40, 150};
      unsigned at = bits();
      for (unsigned left = lengths[bits() % 5]; left > 0; left--) {
        at += bits() % 3 == 0 ? bits() % 100 : 1;  // mostly the next one: there is something to learn
        text += character(at);
      }
      text += "\n\n";
    }
    write_file(folder_ / "text", text);
    const Ran made = run_command(program("prepare") + " '" + (folder_ / "text").string() +
                                 "' --kind char --t2s off --val 0.06 --split tail -o '" + file() + "'");
    if (made.code != 0) throw std::runtime_error("tests: prepare failed: " + made.err);
  }
  std::string file() const { return (folder_ / "data.bin").string(); }

 private:
  TempDir folder_;
};

// Threads that wait by spinning make very small steps a hundred times slower on a busy machine.
// What these tests say of a run they say of the CPU, whatever card the machine has.
std::string train_gpt(const std::string& arguments) {
  const bool stated = arguments.find("--device") != std::string::npos;
  return "OMP_WAIT_POLICY=passive exec " + program("train_gpt") + (stated ? " " : " --device cpu ") +
         arguments;
}

}  // namespace

Ran train(const std::string& arguments) { return run_command(train_gpt(arguments)); }

std::string small_run() {
  static const SmallData data;
  return "-d '" + data.file() +
         "' --preset tiny --layers 1 --width 32 --heads 2 --head-dim 16 --ffn 64 -t 32 -b 2 --accum 2 -u 5 "
         "--lr 3e-3 ";
}

std::string hash_of(const std::filesystem::path& file) {
  const Ran ran = run_command(program("inspect") + " info --hash '" + file.string() + "'");
  CAPTURE(ran.err);
  REQUIRE(ran.code == 0);
  return lines_of(ran.out).back();
}

bool verifies(const std::filesystem::path& file) {
  return run_command(program("inspect") + " verify '" + file.string() + "'").code == 0;
}

json state_of(const std::filesystem::path& file) {
  const std::string bytes = read_file(file);
  std::uint64_t header = 0;
  std::copy_n(bytes.begin(), sizeof header, reinterpret_cast<char*>(&header));
  const json metadata = json::parse(bytes.substr(sizeof header, header))["__metadata__"];
  return json::parse(metadata["state"].get<std::string>());
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::vector<json> logged(const std::filesystem::path& log) {
  std::vector<json> kept;
  const std::string text = read_file(log);
  CHECK(text.ends_with('\n'));
  for (const auto& line : lines_of(text)) {
    json j = json::parse(line);
    if (j.contains("event")) continue;
    for (const char* clock : {"ms", "tok_s", "time", "mfu", "mem_gb"}) j.erase(clock);
    kept.push_back(std::move(j));
  }
  return kept;
}

std::vector<json> trained(const std::filesystem::path& log) {
  std::vector<json> all = logged(log);
  std::erase_if(all, [](const json& line) { return !line.contains("loss"); });
  return all;
}

std::vector<std::pair<std::int64_t, std::string>> samples_in(const std::filesystem::path& log) {
  std::vector<std::pair<std::int64_t, std::string>> samples;
  for (const auto& line : lines_of(read_file(log)))
    if (const json j = json::parse(line); j.value("event", "") == "sample")
      samples.emplace_back(j["step"], j["detail"]);
  return samples;
}

std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

Training::Training(const std::string& arguments, const std::filesystem::path& folder) {
  std::string command = train_gpt(arguments) + " </dev/null >'" + (folder / "out").string() + "' 2>'" +
                        (folder / "err").string() + "'";
  for (const char* output : {"out", "err"}) write_file(folder / output, "");  // not what an earlier one said
  std::string shell = "/bin/sh", option = "-c";
  char* words[] = {shell.data(), option.data(), command.data(), nullptr};
  if (posix_spawn(&pid_, shell.c_str(), nullptr, nullptr, words, environ) != 0)
    throw std::runtime_error("tests: cannot start train_gpt");
}

Training::~Training() {
  if (!running()) return;
  signal(SIGKILL);
  wait();
}

bool Training::running() {
  if (!ended_) ended_ = waitpid(pid_, &status_, WNOHANG) == pid_;
  return !ended_;
}

void Training::signal(int number) const {
  if (!ended_) kill(pid_, number);
}

int Training::wait() {
  if (!ended_) waitpid(pid_, &status_, 0);
  ended_ = true;
  return WIFEXITED(status_) ? WEXITSTATUS(status_) : -WTERMSIG(status_);
}

}  // namespace tests
