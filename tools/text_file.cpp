#include "tools/text_file.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <vector>

#include "data/utf8.h"
#include "engine/error.h"

namespace tools {

using engine::Exit;
using engine::require;

std::string read_text(const std::string& file, std::size_t most, std::string_view advice) {
  std::ifstream opened;
  if (file != "-") {
    std::error_code absent;
    require(!std::filesystem::is_directory(file, absent), Exit::data,
            "{}: is a folder; give a text file, or - for standard input", file);
    opened.open(file, std::ios::binary);
    require(opened.is_open(), Exit::data,
            "{}: cannot be opened: {}; give a text file, or - for standard input", file,
            std::strerror(errno));
  }
  std::istream& in = file == "-" ? std::cin : opened;
  data::Utf8Repair repair(false);
  std::string text;
  std::size_t size = 0;
  for (std::vector<char> piece(1 << 16); in;) {
    in.read(piece.data(), std::streamsize(piece.size()));
    size += std::size_t(in.gcount());
    require(size <= most, Exit::data, "{}: over {} bytes, {}", file, most, advice);
    repair.push({piece.data(), std::size_t(in.gcount())}, text);
  }
  require(!in.bad(), Exit::data, "{}: cannot be read; give a text file, or - for standard input", file);
  repair.finish(text);
  return text;
}

}  // namespace tools
