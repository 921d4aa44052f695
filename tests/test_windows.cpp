#include "data/windows.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "data/wordpiece.h"
#include "tests/support.h"

namespace {

using data::permuted;

std::vector<std::uint64_t> order(std::uint64_t count, std::uint64_t seed, std::uint64_t epoch) {
  std::vector<std::uint64_t> all;
  for (std::uint64_t i = 0; i < count; i++) all.push_back(permuted(i, count, seed, epoch));
  return all;
}

bool is_permutation_of_range(std::vector<std::uint64_t> all) {
  std::sort(all.begin(), all.end());
  for (std::uint64_t i = 0; i < all.size(); i++)
    if (all[i] != i) return false;
  return true;
}

data::WordPiece some_vocabulary() {
  std::vector<std::string> tokens{"[PAD]", "[UNK]", "[SEP]"};
  for (int i = 0; i < 500; i++) tokens.push_back("w" + std::to_string(i));
  return data::WordPiece(std::move(tokens), {}, "a test");
}

// A token file of `count` tokens in one raw document; returns them.
std::vector<std::int32_t> write_tokens(const std::filesystem::path& path, std::uint64_t count) {
  const auto vocabulary = some_vocabulary();
  std::vector<std::uint32_t> ids;
  for (std::uint64_t i = 0; i < count; i++) ids.push_back(std::uint32_t((i * i + 7 * i) % 499 + 3));
  data::TokenFileWriter writer(path, vocabulary, true, {.rule = data::Split::Rule::tail, .share = 0});
  writer.add(ids, count);
  writer.finish({});
  return {ids.begin(), ids.end()};
}

}  // namespace

TEST_CASE("windows: the order is a permutation, another for every seed and epoch") {
  for (std::uint64_t count = 1; count <= 300; count++)
    for (std::uint64_t seed : {1, 2}) {
      CAPTURE(count);
      CHECK(is_permutation_of_range(order(count, seed, 0)));
    }
  for (std::uint64_t count : {4096, 4097, 65535, 65536, 100'003}) {
    CAPTURE(count);
    const auto first = order(count, 1, 0);
    CHECK(is_permutation_of_range(first));
    CHECK(order(count, 1, 0) == first);
    for (const auto& other : {order(count, 1, 1), order(count, 2, 0)}) {
      std::uint64_t agree = 0, neighbours = 0;
      for (std::uint64_t i = 0; i < count; i++) agree += other[i] == first[i];
      for (std::uint64_t i = 1; i < count; i++) neighbours += other[i] == other[i - 1] + 1;
      CHECK(agree < 12);  // one is expected
      CHECK(neighbours < 12);
    }
  }
}

TEST_CASE("windows: the order of very many") {
  for (std::uint64_t count : {(std::uint64_t(1) << 40) + 1, std::uint64_t(1) << 63, ~std::uint64_t(0)}) {
    CAPTURE(count);
    std::set<std::uint64_t> seen;
    std::uint64_t upper_half = 0;
    for (std::uint64_t i = 0; i < 1000; i++) {
      const std::uint64_t at = permuted(i, count, 3, 4);
      CHECK(at < count);
      upper_half += at >= count / 2;
      seen.insert(at);
    }
    CHECK(seen.size() == 1000);
    CHECK(upper_half > 400);
    CHECK(upper_half < 600);
  }
}

TEST_CASE("windows: every target occurs once, behind its input; the last window may be short") {
  tests::TempDir folder;
  const auto tokens = write_tokens(folder / "tokens.bin", 100);
  const data::TokenFile file(folder / "tokens.bin");
  REQUIRE(file.size() == 100);
  for (const auto& [first, last] :
       {std::pair<std::uint64_t, std::uint64_t>{0, 100}, {13, 100}, {0, 65}, {99, 100}})
    for (std::uint64_t length : {1, 2, 7, 16, 32, 98, 99, 100, 200}) {
      CAPTURE(first);
      CAPTURE(last);
      CAPTURE(length);
      const data::Windows windows(file, first, last, length);
      CHECK(windows.targets() == last - first - 1);
      std::vector<std::int32_t> ids(length), targets(length), seen;
      std::uint64_t whole = 0;
      for (std::uint64_t w = 0; w < windows.all(); w++) {
        std::fill(ids.begin(), ids.end(), -7);
        std::fill(targets.begin(), targets.end(), -7);
        windows.read(w, ids, targets);
        const auto count = std::size_t(std::find(targets.begin(), targets.end(), -1) - targets.begin());
        REQUIRE(count > 0);
        const auto start = tokens.begin() + std::ptrdiff_t(first + w * length);
        CHECK(std::equal(ids.begin(), ids.begin() + std::ptrdiff_t(count), start));
        CHECK(std::all_of(ids.begin() + std::ptrdiff_t(count), ids.end(), [](auto id) { return id == 0; }));
        CHECK(std::all_of(targets.begin() + std::ptrdiff_t(count), targets.end(),
                          [](auto t) { return t == -1; }));
        seen.insert(seen.end(), targets.begin(), targets.begin() + std::ptrdiff_t(count));
        whole += count == length;
      }
      CHECK(windows.whole() == whole);
      CHECK(std::vector(tokens.begin() + std::ptrdiff_t(first) + 1, tokens.begin() + std::ptrdiff_t(last)) ==
            seen);
    }
  CHECK(data::Windows(file, 50, 50, 4).all() == 0);
  CHECK(data::Windows(file, 50, 50, 4).targets() == 0);
}

TEST_CASE("windows: an endless run takes every whole window once an epoch, in another order each") {
  tests::TempDir folder;
  write_tokens(folder / "tokens.bin", 1000);
  const data::TokenFile file(folder / "tokens.bin");
  const data::Windows windows(file, 0, 1000, 12);
  REQUIRE(windows.whole() == 83);
  std::vector<std::uint64_t> epochs[2];
  for (std::uint64_t i = 0; i < 166; i++) epochs[i / 83].push_back(windows.shuffled(i, 5));
  CHECK(is_permutation_of_range(epochs[0]));
  CHECK(is_permutation_of_range(epochs[1]));
  CHECK(epochs[0] != epochs[1]);
  CHECK(epochs[1] == order(83, 5, 1));
}
