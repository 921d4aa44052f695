#include "engine/durable_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <system_error>
#include <utility>

#include "engine/error.h"

namespace engine {
namespace fs = std::filesystem;
namespace {

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

}  // namespace

void remove_left_overs(const fs::path& path) {
  const std::string prefix = path.filename().string() + ".tmp.";
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder_of(path), ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix)) continue;
    long pid = 0;
    const char* end = name.data() + name.size();
    auto [stop, error] = std::from_chars(name.data() + prefix.size(), end, pid);
    if (error != std::errc{} || stop != end || pid <= 0) continue;
    if (pid == getpid() || (kill(pid_t(pid), 0) != 0 && errno == ESRCH)) fs::remove(entry.path(), ignored);
  }
}

DurableFile::DurableFile(fs::path path) : path_(std::move(path)) {
  struct stat status {};
  if (stat(path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode))
    fail(Exit::usage, "{}: exists and is not a regular file; name another output", path_.string());
  remove_left_overs(path_);
  temporary_ = fmt::format("{}.tmp.{}", path_.string(), getpid());
  file_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file_ < 0)
    fail(Exit::io, "{}: cannot be written: {}; name an output in a folder that exists and is writable",
         path_.string(), std::strerror(errno));
}

DurableFile::~DurableFile() {
  if (file_ >= 0) close(file_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

void DurableFile::fail_io(const char* doing) const {
  const int error = errno;
  fail(Exit::io, "{}: {} failed: {}; the output was not changed{}", path_.string(), doing,
       std::strerror(error), error == ENOSPC ? ", free some space and run again" : "");
}

void DurableFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::write(file_, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) fail_io("writing");
    bytes = bytes.subspan(std::size_t(wrote));
  }
}

void DurableFile::write_start(std::span<const std::byte> bytes) {
  if (lseek(file_, 0, SEEK_SET) != 0) fail_io("seeking");
  write(bytes);
  if (lseek(file_, 0, SEEK_END) < 0) fail_io("seeking");
}

void DurableFile::commit() {
  if (fsync(file_) != 0) fail_io("flushing");
  const int closed = close(std::exchange(file_, -1));
  if (closed != 0) fail_io("closing");
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail_io("renaming");
  temporary_.clear();
  const int folder = open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0)
    return;  // a folder that may not be opened for reading cannot be flushed; the file itself is
  fsync(folder);
  close(folder);
}

}  // namespace engine
