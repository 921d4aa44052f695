// What several tests share: where test data lies, temporary folders, tests that are skipped with a reason.
#pragma once
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

namespace tests {

// Whether this is a build under the address sanitizer, which keeps memory of its own and reserves more
// addresses than any limit.
#ifdef __SANITIZE_ADDRESS__
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// $SHARED_DATA, else ../shared/data relative to the repository; empty where there is none.
std::filesystem::path shared_data();
// $GOLDEN_DIR, else ../shared/golden, else tests/golden in the repository.
std::filesystem::path golden_dir();
std::filesystem::path repository();  // the source tree this binary was built from

// For doctest's decorator: TEST_CASE("name" * doctest::skip(tests::lacks("name", missing, "why"))). Remembers
// the reason for the report and returns `missing`.
bool lacks(const char* test, bool missing, const char* reason);
std::string reason_for_skipping(const std::string& test);  // empty: it is not to be skipped
// lacks() for tests that read files below shared_data().
bool lacks_shared(const char* test, const char* file);

class TempDir {  // an empty folder, removed with its contents
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

std::string read_file(const std::filesystem::path&);
void write_file(const std::filesystem::path&, std::string_view bytes);

struct Ran {  // a program's end
  int code = 0;
  std::string out, err;
};
// Runs a shell command line with stdin closed; code is the exit status (128 + signal if killed).
Ran run_command(const std::string& command);
// That `ran` is one bounded line of printable UTF-8 from `program` holding all `words`.
void check_one_line(const Ran& ran, const std::string& program, int code,
                    const std::vector<std::string>& words);
// The program `name` as built beside this test binary's tree (the repository root for BUILD=build), quoted
// for a shell.
std::string program(const std::string& name);

}  // namespace tests
