#include "engine/arena.h"
#include "engine/lanes.h"

#include <doctest/doctest.h>

#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

using engine::Arena;
using engine::Device;

namespace {

// Takes and gives drawn at random; checks every take against the blocks alive then. Returns the offsets in
// order.
std::vector<std::size_t> random_life(Arena& arena, unsigned seed, int events) {
  std::mt19937 bits(seed);
  std::vector<std::pair<std::size_t, std::size_t>> live;
  std::vector<std::size_t> offsets;
  bool overlap = false, misplaced = false;
  for (int i = 0; i < events; i++) {
    if (live.empty() || bits() % 100 < 55) {
      const std::size_t bytes = bits() % 3 ? bits() % 3000 : bits() % 100000;
      const std::size_t at = arena.take(bytes);
      misplaced |= at % 256 != 0 || at + bytes > arena.peak();
      for (auto [first, size] : live)
        overlap |= at < first + size && first < at + std::max<std::size_t>(bytes, 1);
      live.emplace_back(at, std::max<std::size_t>(bytes, 1));
      offsets.push_back(at);
    } else {
      std::swap(live[bits() % live.size()], live.back());
      arena.give(live.back().first);
      live.pop_back();
    }
  }
  CHECK(!overlap);
  CHECK(!misplaced);
  CHECK(arena.empty() == live.empty());
  for (auto [first, size] : live) arena.give(first);
  CHECK(arena.empty());
  return offsets;
}

}  // namespace

TEST_CASE(
    "arena: blocks alive at once never overlap; the same events give the same offsets, rehearsing or not") {
  for (unsigned seed = 1; seed <= 20; seed++) {
    CAPTURE(seed);
    Arena arena{Device{}}, other{Device{}};
    const auto offsets = random_life(arena, seed, 2000);
    CHECK(random_life(other, seed, 2000) == offsets);
    const std::size_t peak = arena.peak();
    CHECK(other.peak() == peak);
    CHECK(random_life(arena, seed, 2000) == offsets);
    arena.commit();
    CHECK(random_life(arena, seed, 2000) == offsets);
    CHECK(arena.peak() == peak);
  }
}

TEST_CASE("arena: first fit, holes merge, the peak is the high-water mark") {
  Arena arena{Device{}};
  const std::size_t a = arena.take(256), b = arena.take(1), c = arena.take(300), d = arena.take(256);
  CHECK(a == 0);
  CHECK(b == 256);
  CHECK(c == 512);
  CHECK(d == 1024);
  CHECK(arena.peak() == 1280);
  arena.give(b);
  CHECK(arena.take(257) == 1280);  // too large for the hole
  arena.give(1280);
  arena.give(a);  // [0, 512)
  CHECK(arena.take(512) == 0);
  arena.give(0);
  arena.give(c);  // [0, 1024)
  CHECK(arena.take(1024) == 0);
  arena.give(0);
  arena.give(d);
  CHECK(arena.empty());
  CHECK(arena.peak() == 1792);
}

TEST_CASE("arena: memory exists after commit() only, and no more than was rehearsed") {
  Arena arena{Device{}};
  arena.give(arena.take(1000));
  CHECK(!arena.committed());
  CHECK(arena.base() == nullptr);
  arena.commit();
  CHECK(arena.committed());
  CHECK(arena.peak() == 1024);
  const std::size_t at = arena.take(1024);
  arena.base()[at + 1023] = std::byte{1};
  CHECK_THROWS_AS(arena.take(1), std::logic_error);
  arena.give(at);
  CHECK_THROWS_AS(arena.take(1025), std::logic_error);
  CHECK(arena.take(1024) == 0);  // a refused request leaves it usable
  arena.give(0);
}

TEST_CASE("arena: nothing rehearsed is still committed") {
  Arena arena{Device{}};
  arena.commit();
  CHECK(arena.committed());
  CHECK_THROWS_AS(arena.take(1), std::logic_error);
}

TEST_CASE("arena: what is given back while a job runs stays out of use until it is over") {
  Arena arena{Device{}};
  const std::size_t a = arena.take(256), b = arena.take(256);
  arena.begun(1);
  arena.give(a);
  CHECK(arena.take(256) == 512);  // not a: job 1 may still read it
  arena.begun(2);
  arena.give(b);
  arena.over(1);
  CHECK(arena.take(256) == a);
  CHECK(arena.take(256) == 768);  // not b: given back with job 2 under way
  arena.over(2);
  CHECK(arena.take(256) == b);
  for (std::size_t at : {a, b, std::size_t(512), std::size_t(768)}) arena.give(at);
  CHECK(arena.empty());
}

TEST_CASE("lanes: on the CPU a job is done where it is given, and memory comes back at once") {
  engine::Stream stream{Device{}};
  Arena arena{Device{}};
  engine::Lanes lanes(stream, arena);
  bool done = false;
  const std::size_t at = arena.take(256);
  const auto job = lanes.run(engine::Lane::weights, [&] {
    done = true;
    arena.give(at);
  });
  CHECK(done);
  CHECK(job == 0);
  CHECK(arena.take(256) == at);
  lanes.join(job);
  lanes.join_all();
  arena.give(at);
}

TEST_CASE("lanes: an error in a job leaves the stream as the place where launches go") {
  engine::Stream stream{Device{}};
  Arena arena{Device{}};
  engine::Lanes lanes(stream, arena);
  CHECK_THROWS_AS(lanes.run(engine::Lane::weights, [] { throw std::logic_error("no"); }), std::logic_error);
  CHECK(&lanes.stream() == &stream);
  CHECK(lanes.job() == 0);
}
