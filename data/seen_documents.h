// Which documents came before, told by their text.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "data/sha256.h"

namespace data {

// Keeps the first 16 bytes of the SHA-256 of each text, in 18 to 37 bytes of memory a different document.
class SeenDocuments {
 public:
  void add(std::string_view text) { hash_.update(text); }  // to the present document
  bool end_document();                                     // whether one of the same text ended before
  void abandon_document() { hash_.finish(); }              // forgets what was added

 private:
  struct Key {
    std::uint64_t low = 0, high = 0;
    bool operator==(const Key&) const = default;
  };
  Key& place_of(const Key&);  // where it is, or where it belongs
  void grow();

  Sha256 hash_;
  std::vector<Key> table_ = std::vector<Key>(1024);  // open addressing; zeros: free
  std::size_t count_ = 0;
};

}  // namespace data
