// A text as the bytes of a file, handed out in pieces.
#pragma once
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "data/byte_source.h"

namespace tests {

class StringSource final : public data::ByteSource {
 public:
  StringSource(const std::string& bytes, std::size_t piece) : bytes_(bytes), piece_(piece) {}
  std::size_t read(std::span<std::byte> into) override {
    const std::size_t count = std::min({into.size(), piece_, bytes_.size() - given_});
    std::memcpy(into.data(), bytes_.data() + given_, count);
    given_ += count;
    return count;
  }

 private:
  const std::string& bytes_;
  std::size_t piece_, given_ = 0;
};

// Adds all that a source gives to `text`, at most `room` bytes at a time; what comes before an error is
// there.
inline void read_all(data::ByteSource& source, std::string& text, std::size_t room) {
  std::vector<std::byte> buffer(room);
  while (const std::size_t count = source.read(buffer))
    text.append(reinterpret_cast<const char*>(buffer.data()), count);
}

}  // namespace tests
