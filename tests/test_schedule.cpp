#include "engine/schedule.h"

#include <cmath>

#include "engine/error.h"
#include "tests/support.h"

namespace {

using engine::Schedule;
using Kind = Schedule::Kind;
using doctest::Approx;

Schedule make(Kind kind, std::int64_t warmup = 100) {
  return {.kind = kind, .peak = 2, .steps = 1100, .warmup = warmup, .final_fraction = 0.1};
}

constexpr Kind kKinds[] = {Kind::cosine, Kind::wsd, Kind::linear, Kind::constant};

}  // namespace

TEST_CASE("schedule: every kind rises linearly to its peak and ends where it should") {
  for (Kind kind : kKinds) {
    CAPTURE(engine::name_of(kind));
    const Schedule s = make(kind);
    CHECK(s.rate(1) == Approx(0.02));
    CHECK(s.rate(50) == Approx(1));
    CHECK(s.rate(100) == Approx(2));
    CHECK(s.rate(101) <= 2);
    CHECK(s.rate(101) == Approx(2).epsilon(0.002));
    const double last = kind == Kind::constant ? 2 : 0.2;
    CHECK(s.rate(1100) == Approx(last));
    CHECK(s.rate(5000) == Approx(last));
    for (std::int64_t step = 101; step <= 1100; step++) CHECK(s.rate(step) <= s.rate(step - 1));
  }
}

TEST_CASE("schedule: the way down") {
  CHECK(make(Kind::cosine).rate(600) == Approx(1.1));
  CHECK(make(Kind::cosine).rate(350) == Approx(0.2 + 1.8 * (0.5 + std::sqrt(0.125))));
  CHECK(make(Kind::linear).rate(600) == Approx(1.1));
  CHECK(make(Kind::linear).rate(350) == Approx(1.55));
  CHECK(make(Kind::constant).rate(600) == 2);
  // the last fifth of 1100 steps is 881..1100
  CHECK(make(Kind::wsd).rate(600) == 2);
  CHECK(make(Kind::wsd).rate(880) == 2);
  CHECK(make(Kind::wsd).rate(881) == Approx(0.2 + 1.8 * (1 - std::sqrt(1 / 220.))));
  CHECK(make(Kind::wsd).rate(935) == Approx(1.1));  // a quarter of the way: 1 - sqrt(1/4)
  CHECK(make(Kind::wsd).rate(1099) == Approx(0.2 + 1.8 * (1 - std::sqrt(219 / 220.))));
}

TEST_CASE("schedule: without warm-up, and with nothing else") {
  for (Kind kind : kKinds) {
    CAPTURE(engine::name_of(kind));
    CHECK(make(kind, 0).rate(1) == Approx(2).epsilon(0.002));
    CHECK(make(kind, 1100).rate(550) == Approx(1));
    CHECK(make(kind, 1100).rate(1100) == Approx(2));
    Schedule one = make(kind, 0);
    one.steps = 1;
    CHECK(one.rate(1) == Approx(kind == Kind::constant ? 2 : 0.2));
  }
  Schedule late = make(Kind::wsd, 1000);  // the cooldown starts when the warm-up ends
  CHECK(late.rate(1000) == Approx(2));
  CHECK(late.rate(1025) == Approx(1.1));
}

TEST_CASE("schedule: names") {
  for (Kind kind : kKinds) CHECK(engine::parse_schedule(engine::name_of(kind)) == kind);
  try {
    engine::parse_schedule("cosin");
    CHECK(false);
  } catch (const engine::Error& error) {
    CHECK(error.code == engine::Exit::usage);
    CHECK(std::string(error.what()) == "--schedule cosin: expected cosine, wsd, linear or constant");
  }
}
