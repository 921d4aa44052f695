#include "tests/bad_input.h"

#include <algorithm>
#include <cstring>
#include <sstream>

#include "engine/container.h"
#include "tests/trained_model.h"

namespace tests {
namespace fs = std::filesystem;
namespace {

std::string foreign_safetensors() {
  const std::string header = R"({"weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}     )";
  const std::uint64_t size = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &size, 8);
  return bytes + header + std::string(8, '\0');
}

}  // namespace

Scene::Scene() {
  const TrainedModel& model = TrainedModel::get();
  for (const char* name : {"zhwiki.bin", "ckpt.bin", "ckpt.best.bin"})
    fs::copy_file(model.folder() / name, folder_ / name);
  write_file(folder_ / "text", "ab 中国\n\nabc\n");
  write_file(folder_ / "empty", "");
  write_file(folder_ / "png", std::string_view("\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2", 26));
  write_file(folder_ / "elf", std::string_view("\x7f\x45LF\2\1\1\0\0\0\0\0\0\0\0\0\3\0>\0\1\0\0\0", 24));
  write_file(folder_ / "other.safetensors", foreign_safetensors());
  fs::create_directory(folder_ / "folder");
  REQUIRE(run("tokenizer train text -o tokenizer --kind char --t2s off").code == 0);
  REQUIRE(run("prepare text -o other.bin --kind char --t2s off").code == 0);
  REQUIRE(run("inspect export nanogpt zhwiki.bin -o ids").code == 0);
}

const std::vector<std::string>& Scene::foreign() {
  static const std::vector<std::string> names{"none", "folder", "empty", "png", "elf", "other.safetensors"};
  return names;
}

Ran Scene::run(const std::string& command) const {
  return run_command("export PATH=" + program("") + ":\"$PATH\"; cd '" + folder_.path().string() + "'; " +
                     command);
}

std::map<std::string, FileState> Scene::files() const {
  std::map<std::string, FileState> all;
  for (const auto& entry : fs::recursive_directory_iterator(folder_.path()))
    all[entry.path().lexically_relative(folder_.path()).string()] = {
        entry.is_regular_file() ? entry.file_size() : 0, entry.last_write_time()};
  return all;
}

void Scene::refuses(const std::string& program, const std::vector<Refusal>& rows) const {
  auto before = files();
  for (const Refusal& row : rows) {
    CAPTURE(row.command);
    const Ran ran = run(row.command);
    CHECK(ran.out == "");
    check_one_line(ran, program, row.code, row.words);
    auto after = files();
    const bool unchanged = after == before;
    CHECK(unchanged);
    before = std::move(after);
  }
}

std::vector<std::string> Scene::truncated(const std::string& name) const {
  const std::string bytes = read_file(folder_ / name);
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  std::vector<std::string> names;
  for (const std::size_t size : {std::size_t(4), std::size_t(8), 8 + header / 2, 8 + header, 8 + header + 5,
                                 (8 + header + bytes.size()) / 2, bytes.size() - 1}) {
    names.push_back(name + "-" + std::to_string(size));
    write_file(folder_ / names.back(), bytes.substr(0, size));
  }
  return names;
}

void Scene::changed_copy(const std::string& from, const std::string& to,
                         const std::function<void(std::map<std::string, std::string>&)>& change,
                         const std::function<void(std::string&)>& payload) const {
  const engine::ContainerReader file(folder_ / from);
  std::map<std::string, std::string> metadata(file.metadata().begin(), file.metadata().end());
  metadata.erase("header_crc32");
  change(metadata);
  engine::ContainerWriter copy;
  for (const auto& [key, value] : metadata) copy.set(key, value);
  std::string words;
  for (const auto& entry : file.entries()) {
    auto bytes = entry.bytes;
    if (payload && entry.name == "tokenizer") {
      words.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      payload(words);
      bytes = std::as_bytes(std::span(words));
    }
    copy.add(entry.name, entry.type, entry.shape, bytes);
  }
  copy.save(folder_ / to);
}

void Scene::flipped_copy(const std::string& from, const std::string& to) const {
  std::string bytes = read_file(folder_ / from);
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  // Of little weight: in tokens and documents it leaves ids below the vocabulary's size.
  char& byte = bytes[8 + header + (bytes.size() - 8 - header) / 2 / 8 * 8];
  byte = static_cast<char>(byte ^ 1);
  write_file(folder_ / to, bytes);
}

std::vector<ListedFlag> listed_flags(const std::string& program) {
  const std::string name = program.substr(0, program.find(' '));
  const std::string command = program.substr(name.size());
  const Ran help = run_command(tests::program(name) + command + " --help");
  REQUIRE(help.code == 0);
  REQUIRE(help.err == "");
  std::vector<ListedFlag> flags;
  std::istringstream lines(help.out);
  for (std::string line; std::getline(lines, line);) {  // "  -x,--steps N[kMG]=2000      Optimizer steps"
    const std::size_t dashes = line.find("--");
    if (dashes != 2 && dashes != 5) continue;
    std::istringstream shown(line.substr(dashes + 2, line.find("  ", dashes) - dashes - 2));
    ListedFlag flag;
    shown >> flag.name >> flag.value;
    flag.value.resize(std::min(flag.value.find('='), flag.value.size()));
    flags.push_back(std::move(flag));
  }
  return flags;
}

}  // namespace tests
