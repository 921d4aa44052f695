// For tests of what programs refuse: a folder with sound and unsound files, and tables of command lines.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/support.h"

namespace tests {

struct Refusal {
  std::string command;  // a shell's, run in the folder of the scene; programs are found by name
  int code;
  std::vector<std::string> words = {};  // that the line on stderr has to hold
};

struct FileState {
  std::uintmax_t bytes;
  std::filesystem::file_time_type written;
  bool operator==(const FileState&) const = default;
};

class Scene {
 public:
  // Holds `text`, `tokenizer` (of text), `zhwiki.bin`, `ckpt.bin`, `ckpt.best.bin` (see TrainedModel),
  // `other.bin` (text as tokens of another vocabulary), `ids` (of zhwiki.bin, nanoGPT's), an empty folder
  // `folder`, and foreign files.
  Scene();
  std::filesystem::path operator/(const std::string& name) const { return folder_ / name; }
  Ran run(const std::string& command) const;
  // Each command of `program` ends with its code, nothing on stdout, one line on stderr that begins with the
  // program's name, and leaves every file of the folder as it was.
  void refuses(const std::string& program, const std::vector<Refusal>& rows) const;
  std::map<std::string, FileState> files() const;  // by name

  // Names of files that nobody made for the programs, for every reader to refuse.
  static const std::vector<std::string>& foreign();
  // Writes beginnings of `name` and returns their names: cuts inside each part of a container.
  std::vector<std::string> truncated(const std::string& name) const;
  // A copy with other metadata (header_crc32 is made anew) and, if `payload` is given, tokenizer.
  void changed_copy(const std::string& from, const std::string& to,
                    const std::function<void(std::map<std::string, std::string>&)>& change,
                    const std::function<void(std::string&)>& payload = {}) const;
  void flipped_copy(const std::string& from, const std::string& to) const;  // a bit of the first tensor

 private:
  TempDir folder_;
};

// The flags of `program --help` (or "program command"): long names and what is printed for their value.
struct ListedFlag {
  std::string name, value;  // value: N, X, N[kMG], a|b, FILE, ...; "[" where it is optional, empty for none
};
std::vector<ListedFlag> listed_flags(const std::string& program);

}  // namespace tests
