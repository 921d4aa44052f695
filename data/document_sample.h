// A random sample of a stream of documents that fits into memory.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace data {

// Every document gets a number from `seed` and its position, and those with the lowest numbers stay while
// they have `most_bytes` together: each is as likely as any other, whatever the length of the stream. The
// same documents give the same sample.
class DocumentSample {
 public:
  DocumentSample(std::uint64_t most_bytes, std::uint64_t seed) : most_bytes_(most_bytes), seed_(seed) {}
  void add(std::string document);

  std::uint64_t documents() const noexcept { return documents_; }         // seen
  std::uint64_t bytes() const noexcept { return bytes_; }                 // of these
  std::uint64_t kept_documents() const noexcept { return kept_.size(); }  // at least one, if one was seen
  std::uint64_t kept_bytes() const noexcept { return kept_bytes_; }
  std::vector<std::string> take();  // the sample, in no order; once

 private:
  using Drawn = std::pair<std::uint64_t, std::string>;  // its number, the document
  struct Lower {
    bool operator()(const Drawn& a, const Drawn& b) const noexcept { return a.first < b.first; }
  };
  std::uint64_t most_bytes_, seed_;
  std::vector<Drawn> kept_;  // a heap, the highest number first
  std::uint64_t documents_ = 0, bytes_ = 0, kept_bytes_ = 0;
};

}  // namespace data
