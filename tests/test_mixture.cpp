// Several files as one sequence of windows: shares at all times, every window once an epoch, positions.
#include "data/mixture.h"

#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "data/wordpiece.h"
#include "tests/support.h"

namespace {

using data::Interleaving;
using Shares = std::vector<std::uint64_t>;

std::vector<std::size_t> parts_of(Interleaving order, std::size_t draws) {
  std::vector<std::size_t> parts;
  for (std::size_t i = 0; i < draws; i++) parts.push_back(order.next().part);
  return parts;
}

// A token file in which token i is first + i, so that a window is told by its first id.
void write_tokens(const std::filesystem::path& path, std::uint32_t first, std::uint32_t count) {
  std::vector<std::string> tokens{"[PAD]", "[UNK]", "[SEP]"};
  for (int i = 0; i < 2000; i++) tokens.push_back("w" + std::to_string(i));
  const data::WordPiece vocabulary(std::move(tokens), data::BertRules{}, "a test");
  std::vector<std::uint32_t> ids(count);
  std::iota(ids.begin(), ids.end(), first);
  data::TokenFileWriter writer(path, vocabulary, true, {.rule = data::Split::Rule::tail, .share = 0});
  writer.add(ids, count);
  writer.finish({});
}

constexpr std::uint64_t kLength = 10, kSeed = 5;

struct TwoFiles {  // of 30 and 12 windows
  tests::TempDir folder;
  data::TokenFile a = made("a", 3, 301), b = made("b", 1003, 130);
  data::Windows of_a{a, 0, a.size(), kLength}, of_b{b, 0, b.size(), kLength};

  data::Mixture mixture(Shares shares) const { return {{of_a, of_b}, std::move(shares), kSeed}; }

 private:
  data::TokenFile made(const char* name, std::uint32_t first, std::uint32_t count) {
    write_tokens(folder / name, first, count);
    return data::TokenFile(folder / name);
  }
};

std::vector<std::int32_t> next(data::Mixture& mixture) {  // inputs, then targets
  std::vector<std::int32_t> ids(kLength), targets(kLength);
  mixture.read_next(ids, targets);
  ids.insert(ids.end(), targets.begin(), targets.end());
  return ids;
}

std::vector<std::int32_t> window(const data::Windows& windows, std::uint64_t w) {
  std::vector<std::int32_t> ids(kLength), targets(kLength);
  windows.read(w, ids, targets);
  ids.insert(ids.end(), targets.begin(), targets.end());
  return ids;
}

}  // namespace

TEST_CASE("mixture: after any number of draws each part had its share, rounded down or up") {
  std::mt19937_64 bits(3);
  std::vector<Shares> cases{{1},
                            {7},
                            {1, 1},
                            {7, 3},
                            {3, 7},
                            {1, 999},
                            {999, 1},
                            {1, 1, 1},
                            {5, 3, 1, 1},
                            {8, 4, 2, 1, 1},
                            {50, 49, 1},
                            {2, 2, 3},
                            {9, 1, 1, 1, 1, 1},
                            {13, 13, 13, 13, 13, 13, 13, 1}};
  for (int i = 0; i < 200; i++) {
    Shares& shares = cases.emplace_back();
    for (std::uint64_t k = 1 + bits() % 9; k > 0; k--) shares.push_back(1 + bits() % (i % 2 ? 20 : 1000));
  }
  for (const Shares& shares : cases) {
    CAPTURE(shares.size());
    const std::uint64_t sum = std::accumulate(shares.begin(), shares.end(), std::uint64_t{0});
    Interleaving order(shares);
    Shares had(shares.size(), 0);
    std::uint64_t wrong = 0;
    for (std::uint64_t n = 1; n <= 3 * sum; n++) {
      const auto [part, index] = order.next();
      wrong += index != had.at(part)++;
      for (std::size_t i = 0; i < shares.size(); i++)  // |had - n * share / sum| < 1
        wrong += had[i] * sum + sum <= n * shares[i] || had[i] * sum >= n * shares[i] + sum;
    }
    CHECK(wrong == 0);
    for (std::size_t i = 0; i < shares.size(); i++) CHECK(had[i] == 3 * shares[i]);
  }
}

TEST_CASE("mixture: orders by hand, and what does not change them") {
  using Parts = std::vector<std::size_t>;
  CHECK(parts_of(Interleaving({1, 1}), 6) == Parts{0, 1, 0, 1, 0, 1});
  CHECK(parts_of(Interleaving({3, 1}), 8) == Parts{0, 0, 0, 1, 0, 0, 0, 1});
  CHECK(parts_of(Interleaving({1, 2}), 6) == Parts{1, 0, 1, 1, 0, 1});
  CHECK(parts_of(Interleaving({700, 300}), 50) == parts_of(Interleaving({7, 3}), 50));
}

TEST_CASE("mixture: a position is one number") {
  for (const Shares& shares : {Shares{7, 3}, Shares{31, 8, 5, 2}, Shares{4}, Shares{1'000'003, 17}}) {
    Interleaving all(shares);
    for (std::uint64_t n = 0; n < 300; n++) {
      Interleaving there(shares);
      there.next();
      there.seek(n);
      const auto draw = all.next(), same = there.next();
      CHECK(draw.part == same.part);
      CHECK(draw.index == same.index);
    }
  }
  Interleaving far({7, 3});         // no time passes for whole periods
  far.seek(~std::uint64_t{0} - 5);  // a multiple of ten
  CHECK(far.next().index == (~std::uint64_t{0} - 5) / 10 * 7);
}

TEST_CASE("mixture: weights as whole numbers") {
  const auto terms = [](std::vector<double> weights) {
    const Interleaving order(data::shares_of(weights));
    return Shares(order.shares().begin(), order.shares().end());
  };
  CHECK(terms({0.7, 0.3}) == Shares{7, 3});
  CHECK(terms({70, 30}) == Shares{7, 3});
  CHECK(terms({1}) == Shares{1});
  CHECK(terms({1e-9}) == Shares{1});
  CHECK(terms({1e9, 1e9}) == Shares{1, 1});
  CHECK(terms({0.1, 0.2, 0.3}) == Shares{1, 2, 3});
  CHECK(terms({123456, 654321}) == Shares{41152, 218107});
  CHECK(terms({1e9, 1e-9}) == Shares{1'000'000'000, 1});
  CHECK(terms({1e-9, 3e-9}) == Shares{1, 3});
  CHECK(terms(std::vector<double>(256, 1e9)) == Shares(256, 1));
}

TEST_CASE("mixture: one file's order is its own") {
  const TwoFiles files;
  for (const Shares& shares : {Shares{}, Shares{5}}) {
    data::Mixture mixture({files.of_a}, shares, kSeed);
    CHECK(mixture.whole() == 30);
    for (std::uint64_t i = 0; i < 70; i++)
      CHECK(next(mixture) == window(files.of_a, data::permuted(i % 30, 30, kSeed, i / 30)));
  }
}

TEST_CASE("mixture: without weights an epoch is every window of all files once") {
  const TwoFiles files;
  data::Mixture mixture = files.mixture({});
  REQUIRE(mixture.whole() == 42);
  std::set<std::int32_t> all;
  for (std::uint64_t w = 0; w < 30; w++) all.insert(window(files.of_a, w).front());
  for (std::uint64_t w = 0; w < 12; w++) all.insert(window(files.of_b, w).front());
  for (int epoch = 0; epoch < 3; epoch++) {
    std::multiset<std::int32_t> seen;
    for (int i = 0; i < 42; i++) seen.insert(next(mixture).front());
    CHECK(std::multiset<std::int32_t>(all.begin(), all.end()) == seen);
  }
}

TEST_CASE("mixture: with weights each file goes on into its own epochs, from any position") {
  const TwoFiles files;
  data::Mixture mixture = files.mixture({3, 2});
  std::map<bool, std::vector<std::vector<std::int32_t>>> seen;  // by: of the second file
  for (std::uint64_t n = 0; n < 200; n++) {
    data::Mixture resumed = files.mixture({3, 2});
    resumed.seek(n);
    const auto read = next(mixture);
    CHECK(next(resumed) == read);
    seen[read.front() > 1000].push_back(read);
  }
  REQUIRE(seen[false].size() == 120);  // four epochs of its 30 windows,
  REQUIRE(seen[true].size() == 80);    // and six and two thirds of these 12
  for (std::uint64_t i = 0; i < 120; i++)
    CHECK(seen[false][i] == window(files.of_a, data::permuted(i % 30, 30, kSeed, i / 30)));
  for (std::uint64_t i = 0; i < 80; i++)
    CHECK(seen[true][i] == window(files.of_b, data::permuted(i % 12, 12, kSeed, i / 12)));
}
