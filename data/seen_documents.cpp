#include "data/seen_documents.h"

#include <cstring>
#include <utility>

namespace data {

bool SeenDocuments::end_document() {
  const auto digest = hash_.finish();
  Key key;
  std::memcpy(&key, digest.data(), sizeof key);
  Key& place = place_of(key);
  if (place == key) return true;
  place = key;
  if (++count_ > table_.size() / 8 * 7) grow();
  return false;
}

SeenDocuments::Key& SeenDocuments::place_of(const Key& key) {
  std::size_t at = key.low % table_.size();
  while (table_[at] != Key{} && table_[at] != key) at = (at + 1) % table_.size();
  return table_[at];
}

void SeenDocuments::grow() {
  const std::vector<Key> old = std::exchange(table_, std::vector<Key>(2 * table_.size()));
  for (const Key& key : old)
    if (key != Key{}) place_of(key) = key;
}

}  // namespace data
