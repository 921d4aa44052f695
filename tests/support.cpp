#include "tests/support.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>

#include "data/utf8.h"

namespace tests {
namespace fs = std::filesystem;
namespace {

fs::path executable() { return fs::read_symlink("/proc/self/exe"); }

std::map<std::string, std::string>& reasons() {  // filled while doctest registers the cases
  static std::map<std::string, std::string> all;
  return all;
}

fs::path folder(const char* variable, const char* beside_repository) {
  if (const char* named = std::getenv(variable); named && *named) return named;
  return repository().parent_path() / beside_repository;
}

}  // namespace

fs::path repository() {
  for (fs::path at = executable().parent_path(); at != at.root_path(); at = at.parent_path())
    if (fs::exists(at / "Makefile") && fs::exists(at / "engine")) return at;
  throw std::runtime_error("tests: no repository above " + executable().string());
}

fs::path shared_data() {
  const fs::path at = folder("SHARED_DATA", "shared/data");
  return fs::exists(at) ? at : fs::path();
}

fs::path golden_dir() {
  const fs::path at = folder("GOLDEN_DIR", "shared/golden");
  const bool named = std::getenv("GOLDEN_DIR") && *std::getenv("GOLDEN_DIR");
  return named || fs::exists(at) ? at : repository() / "tests" / "golden";
}

bool lacks(const char* test, bool missing, const char* reason) {
  if (missing) reasons()[test] = reason;
  return missing;
}

bool lacks_shared(const char* test, const char* file) {
  const fs::path at = shared_data();
  if (!at.empty() && fs::exists(at / file)) return false;
  reasons()[test] = std::string("needs ") + file + " in $SHARED_DATA";
  return true;
}

std::string reason_for_skipping(const std::string& test) {
  const auto found = reasons().find(test);
  return found == reasons().end() ? std::string() : found->second;
}

TempDir::TempDir() {
  std::string name = (fs::temp_directory_path() / "engine-test-XXXXXX").string();
  if (!mkdtemp(name.data())) throw std::runtime_error("tests: no temporary folder");
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("tests: cannot read " + path.string());
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void write_file(const fs::path& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), std::streamsize(bytes.size()));
  if (!out.flush()) throw std::runtime_error("tests: cannot write " + path.string());
}

Ran run_command(const std::string& command) {
  TempDir temp;
  const std::string line =
      "( " + command + " ) </dev/null >'" + (temp / "out").string() + "' 2>'" + (temp / "err").string() + "'";
  const int status = std::system(line.c_str());
  Ran ran;
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  ran.out = read_file(temp / "out");
  ran.err = read_file(temp / "err");
  return ran;
}

void check_one_line(const Ran& ran, const std::string& program, int code,
                    const std::vector<std::string>& words) {
  CAPTURE(ran.err);
  CHECK(ran.code == code);
  CHECK(ran.err.starts_with(program + ": "));
  CHECK(ran.err.ends_with('\n'));
  CHECK(std::ranges::count(ran.err, '\n') == 1);
  CHECK(ran.err.size() <= 540);
  CHECK(data::is_well_formed(ran.err));
  const bool no_controls = std::ranges::all_of(ran.err, [](char c) { return c == '\n' || (c & 0xe0) != 0; });
  CHECK(no_controls);
  for (const std::string& word : words) CHECK_MESSAGE(ran.err.find(word) != std::string::npos, word);
}

std::string program(const std::string& name) {
  return "'" + (executable().parent_path() / "bin" / name).string() + "'";
}

}  // namespace tests
