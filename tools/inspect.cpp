// inspect: what a token file, tokenizer file or checkpoint holds, and whether it is sound; token files from
// and for other programs (docs/reference.md).
#include <algorithm>
#include <filesystem>
#include <fstream>

#include "data/sha256.h"
#include "data/token_file.h"
#include "data/tokenizer.h"
#include "engine/checkpoint.h"
#include "engine/container.h"
#include "tools/cli.h"
#include "tools/console.h"
#include "tools/exchange.h"
#include "tools/format.h"

namespace {

using engine::Exit;
using engine::fail;
using engine::require;
using tools::write_out;

// A damaged header cannot tell which kind of file it began, so its text is looked at.
Exit code_for(const std::string& path) {
  std::error_code absent;
  if (!std::filesystem::is_regular_file(path, absent)) return Exit::data;  // opening a FIFO would wait
  constexpr std::size_t kEnough = 1 << 20;
  std::string head(kEnough, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<std::size_t>(std::max<std::streamsize>(0, file.gcount())));
  const bool tokens = head.find("\"nsa-tokens/") != head.npos;
  const bool other =
      head.find("\"nsa-checkpoint/") != head.npos || head.find("\"nsa-tokenizer/") != head.npos;
  return other && !tokens ? Exit::checkpoint : Exit::data;
}

std::vector<const engine::ContainerEntry*> by_name(const engine::ContainerReader& file) {
  std::vector<const engine::ContainerEntry*> entries;
  for (const auto& entry : file.entries()) entries.push_back(&entry);
  std::ranges::sort(entries, {}, &engine::ContainerEntry::name);
  return entries;
}

std::string sha256_of(const engine::ContainerReader& file) {
  data::Sha256 hash;
  for (const auto* entry : by_name(file)) {
    hash.update(entry->name);
    hash.update(entry->bytes);
  }
  return hash.hex();
}

int info(const std::string& path, bool hash) {
  const engine::ContainerReader file(path, code_for(path));
  std::string lines;
  for (const auto& [key, value] : file.metadata())
    lines += fmt::format("{:<24} {}\n", tools::printable(key), tools::printable(value));
  for (const auto* entry : by_name(file))
    lines += fmt::format("{:<24} {} [{}], {} bytes\n", tools::printable(entry->name),
                         engine::name_of(entry->type), fmt::join(entry->shape, ", "), entry->bytes.size());
  if (hash) lines += fmt::format("sha256 {}\n", sha256_of(file));
  write_out(lines);
  return 0;
}

int verify(const std::string& path) {
  const engine::ContainerReader file(path, code_for(path));
  const std::string& format = file.meta("format");
  if (format.starts_with("nsa-tokens/")) {
    data::TokenFile(path).verify();
  } else if (format.starts_with("nsa-checkpoint/")) {
    file.require_format("nsa-checkpoint");
    engine::verify_checksums(file);
  } else {
    file.require_format("nsa-tokenizer");
    data::load_tokenizer(path);
  }
  write_out(fmt::format("{}: ok, {}, {} tensors\n", path, tools::printable(format), file.entries().size()));
  return 0;
}

int ids(const std::string& path, std::uint64_t from, std::uint64_t count) {
  constexpr std::uint64_t kAtOnce = 1 << 16;
  const data::TokenFile file(path);
  const auto tokenizer = file.tokenizer();
  from = std::min(from, file.size());
  const std::uint64_t end = from + std::min(count, file.size() - from);
  std::vector<std::int32_t> some;
  fmt::memory_buffer text;
  for (std::uint64_t at = from; at < end; at += some.size()) {
    some.resize(std::min(kAtOnce, end - at));
    file.read(at, some);
    for (std::int32_t& id : some) id = std::int32_t(tokenizer->whole_id(std::uint32_t(id)));
    text.clear();
    fmt::format_to(std::back_inserter(text), "{}{}", at == from ? "" : " ", fmt::join(some, " "));
    write_out({text.data(), text.size()});
  }
  write_out("\n");
  return 0;
}

struct Flags {
  std::string file;
  bool hash = false;
  std::int64_t from = 0, count = 0;
};

tools::Body set_up(CLI::App& app, Flags& f) {
  constexpr std::int64_t kMost = std::int64_t{1} << 53;
  app.require_subcommand(0, 1)->fallthrough();
  app.add_flag("--quiet")->description("no progress, as in every program; there is none here");
  auto* info_command = app.add_subcommand("info", "shows metadata and tensors");
  info_command->add_flag("--hash", f.hash,
                         "SHA-256 over the tensors' names and bytes, in the order of the names");
  auto* verify_command = app.add_subcommand("verify", "compares all checksums");
  auto* ids_command = app.add_subcommand("ids", "prints tokens of a token file");
  tools::add_size(*ids_command, "--from", f.from, 0, kMost, "the first token to print");
  tools::add_size(*ids_command, "--count", f.count, 0, kMost, "how many tokens, at most to the end")
      ->required()
      ->default_str("");
  for (auto* command : {info_command, verify_command, ids_command})
    tools::refuse_empty(command->add_option("FILE", f.file, "a token file, tokenizer file or checkpoint"))
        ->required()
        ->type_name("");
  auto* import_command = app.add_subcommand("import", "makes a token file of another program's");
  auto* export_command =
      app.add_subcommand("export", "writes the tokens of a token file for another program");
  const tools::Body import_file = tools::add_import(*import_command);
  const tools::Body export_file = tools::add_export(*export_command);

  return [=, &app, &f] {
    require(!app.get_subcommands().empty(), Exit::usage,
            "no command given, expected info, verify, ids, import or export; see --help");
    int code = 0;
    if (info_command->parsed()) code = info(f.file, f.hash);
    else if (verify_command->parsed()) code = verify(f.file);
    else if (import_command->parsed()) code = import_file();
    else if (export_command->parsed()) code = export_file();
    else code = ids(f.file, static_cast<std::uint64_t>(f.from), static_cast<std::uint64_t>(f.count));
    tools::flush_out();
    return code;
  };
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  return tools::run_tool("inspect",
                         "Shows, checks and converts token files, tokenizer files and checkpoints.", argc,
                         argv, [&](CLI::App& app) { return set_up(app, flags); });
}
