// Files that appear whole or not at all.
#include "engine/durable_file.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <set>
#include <string_view>

#include "engine/error.h"
#include "tests/support.h"

namespace {

using engine::DurableFile;
using engine::Exit;
using tests::TempDir;

std::span<const std::byte> bytes_of(std::string_view s) { return std::as_bytes(std::span(s)); }

std::set<std::string> names_in(const std::filesystem::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.insert(entry.path().filename().string());
  return names;
}

// Forks; the child ends with the Exit code of what `f` throws, or 0, without running any destructor outside
// f.
pid_t start_child(const std::function<void()>& f) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  try {
    f();
  } catch (const engine::Error& error) {
    _exit(int(error.code));
  } catch (...) {
    _exit(100);
  }
  _exit(0);
}

int exit_code(pid_t pid) {
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void check_refused(const std::filesystem::path& path, Exit code, const char* mentions) {
  CAPTURE(path);
  try {
    DurableFile file(path);
    CHECK(false);
  } catch (const engine::Error& error) {
    CHECK(error.code == code);
    CHECK(std::string(error.what()).starts_with(path.string() + ": "));
    CHECK(std::string(error.what()).find(mentions) != std::string::npos);
  }
}

}  // namespace

TEST_CASE("durable file: nothing appears, and nothing changes, before commit()") {
  TempDir folder;
  const auto path = folder / "file";
  {
    DurableFile file(path);
    file.write(bytes_of("abandoned"));
    CHECK(names_in(folder.path()) == std::set<std::string>{"file.tmp." + std::to_string(getpid())});
  }
  CHECK(names_in(folder.path()).empty());
  {
    DurableFile file(path);
    file.write(bytes_of("one "));
    file.write({});
    file.write(bytes_of("two"));
    file.commit();
    CHECK(tests::read_file(path) == "one two");
  }
  {
    DurableFile file(path);
    file.write(bytes_of("3"));
    CHECK(tests::read_file(path) == "one two");
    file.commit();
  }
  CHECK(tests::read_file(path) == "3");
  CHECK(names_in(folder.path()) == std::set<std::string>{"file"});
}

TEST_CASE("durable file: left-overs of dead processes go, those of live ones and other files stay") {
  TempDir folder;
  const auto path = folder / "file";
  const auto write_half = [&] {
    DurableFile file(path);
    file.write(bytes_of("half"));
    kill(getpid(), SIGKILL);
  };
  const pid_t dead = start_child(write_half);
  CHECK(exit_code(dead) == 128 + SIGKILL);
  const std::string left = "file.tmp." + std::to_string(dead);
  REQUIRE(names_in(folder.path()) == std::set<std::string>{left});

  const std::string other = "file2.tmp." + std::to_string(dead);
  const std::set<std::string> kept{"file.tmp.",
                                   "file.tmp.x",
                                   "file.tmp.-1",
                                   "file.tmp.0",
                                   left + ".old",
                                   other,
                                   "file.tmp." + std::to_string(getppid())};
  for (const auto& name : kept) tests::write_file(folder / name, "mine");
  { DurableFile file(path); }
  CHECK(names_in(folder.path()) == kept);
}

TEST_CASE("durable file: a name without a folder lies in the present one") {
  TempDir folder;
  const pid_t child = start_child([&] {
    std::filesystem::current_path(folder.path());
    DurableFile file("file");
    file.write(bytes_of("here"));
    file.commit();
  });
  CHECK(exit_code(child) == 0);
  CHECK(tests::read_file(folder / "file") == "here");
}

TEST_CASE("durable file: outputs that cannot be written") {
  TempDir folder;
  std::filesystem::create_directory(folder / "folder");
  REQUIRE(mkfifo((folder / "fifo").c_str(), 0600) == 0);
  tests::write_file(folder / "text", "text");
  check_refused(folder / "folder", Exit::usage, "not a regular file");
  check_refused(folder / "fifo", Exit::usage, "not a regular file");
  check_refused("/dev/null", Exit::usage, "not a regular file");
  check_refused(folder / "absent/file", Exit::io, "No such file or directory");
  check_refused(folder / "text/file", Exit::io, "Not a directory");
  if (geteuid() != 0) {  // to root every folder is writable
    chmod((folder / "folder").c_str(), 0500);
    check_refused(folder / "folder/file", Exit::io, "Permission denied");
  }
  CHECK(names_in(folder.path()) == std::set<std::string>{"folder", "fifo", "text"});
}

TEST_CASE("durable file: a disk that fills up leaves the old file as it was") {
  TempDir folder;
  tests::write_file(folder / "file", "old");
  const pid_t child = start_child([&] {
    signal(SIGXFSZ, SIG_IGN);  // writes past the limit then fail with EFBIG
    const rlimit limit{4096, 4096};
    setrlimit(RLIMIT_FSIZE, &limit);
    DurableFile file(folder / "file");
    file.write(bytes_of(std::string(4000, 'x')));
    try {
      file.write(bytes_of(std::string(4000, 'x')));
    } catch (const engine::Error& error) {
      const std::string expected = (folder / "file").string() + ": writing failed: File too large";
      if (!std::string(error.what()).starts_with(expected)) _exit(101);
      throw;
    }
  });
  CHECK(exit_code(child) == int(Exit::io));
  CHECK(tests::read_file(folder / "file") == "old");
  CHECK(names_in(folder.path()) == std::set<std::string>{"file"});
}
