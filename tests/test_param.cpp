// The parameters' slabs and their start values, and the optimizer on them.
#include "engine/param.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "engine/optimizer.h"
#include "tests/op_case.h"

namespace {

using engine::Device;
using engine::DType;
using engine::Init;
using engine::Param;
using engine::ParamStore;
using engine::Stream;
using tests::same_bits;

std::vector<float> start_values(const std::vector<const char*>& order, std::uint64_t seed) {
  ParamStore store(Device{}, DType::f32);
  for (std::string name : order) store.add(name, {30, 40}, Init::normal(1));
  store.seal(false);
  Stream stream{Device{}};
  store.initialize(seed, stream);
  return store.find("x")->value.to_host(stream);
}

double deviation(const std::vector<float>& x, double mean) {
  double sum = 0;
  for (float v : x) sum += (v - mean) * (v - mean);
  return std::sqrt(sum / double(x.size()));
}

}  // namespace

TEST_CASE("params: matrices first, each at a multiple of 64 elements, the whole shared by all ranks") {
  for (int world : {1, 4}) {
    ParamStore store(Device{}, DType::f32);
    const Param &bias = store.add("bias", {7}, Init::constant(0)),
                &table = store.add("table", {3, 5}, {}, 64);
    const Param &scale = store.add("scale", {100}, Init::constant(1)),
                &cube = store.add("cube", {2, 3, 4}, {}, 1);
    CHECK(store.trained_scalars() == 7 + 15 + 100 + 24);
    store.seal(true, world);
    CHECK(store.decayed() == 64 * 5 + 64);
    CHECK(store.total() == (world == 1 ? 768 : 1024));
    CHECK(store.total() % (256 * world) == 0);
    CHECK(store.trained_scalars() == 7 + 15 + 100 + 24);
    const auto first = [&](const Param& p) { return p.value.f32() - store.values().f32(); };
    CHECK(first(table) == 0);
    CHECK(first(cube) == 320);
    CHECK(first(bias) == 384);
    CHECK(first(scale) == 448);
    CHECK(table.memory_shape == engine::Shape{64, 5});
    CHECK(table.file_shape == engine::Shape{3, 5});
    CHECK(cube.memory_shape == cube.file_shape);
    for (const Param& p : store.all()) {
      CHECK(p.value.shape() == p.memory_shape);
      CHECK(p.grad.f32() - store.grads().f32() == first(p));
      CHECK(store.range_of(p, store.grads()).data() == p.grad.data());
    }
    CHECK(store.find("cube") == &cube);
    CHECK(!store.find("cub"));
    CHECK_THROWS_AS(store.add("late", {1}, {}), std::logic_error);
    CHECK_THROWS_AS(store.range_of(Param{}, store.values()), std::logic_error);
  }
}

TEST_CASE("params: without gradients there is no slab for them") {
  ParamStore store(Device{}, DType::f32);
  store.add("w", {4, 4}, {});
  store.seal(false);
  CHECK(!store.grads());
  CHECK(!store.find("w")->grad);
}

TEST_CASE("params: start values depend on seed, name and index only") {
  const auto alone = start_values({"x"}, 1);
  CHECK(same_bits(start_values({"a", "x", "b"}, 1), alone));
  CHECK(same_bits(tests::on_threads(4, [] { return start_values({"b", "x"}, 1); }), alone));
  CHECK(same_bits(tests::on_threads(1, [] { return start_values({"b", "x"}, 1); }), alone));
  CHECK(!same_bits(start_values({"x"}, 2), alone));
  ParamStore store(Device{}, DType::f32);
  store.add("x", {30, 40}, Init::normal(1));
  store.add("y", {30, 40}, Init::normal(1));
  store.seal(false);
  Stream stream{Device{}};
  store.initialize(1, stream);
  CHECK(!same_bits(store.find("y")->value.to_host(stream), alone));
}

TEST_CASE("params: start values have their distribution, rows beyond the file's are zero") {
  ParamStore store(Device{}, DType::f32);
  store.add("normal", {300, 100}, Init::normal(0.02f), 320);
  store.add("uniform", {300, 100}, Init::uniform(0.5f));
  store.add("constant", {50}, Init::constant(3));
  store.seal(true);
  Stream stream{Device{}};
  stream.fill(store.values().data(), 0xff, store.values().bytes());
  store.initialize(9, stream);
  auto normal = store.find("normal")->value.to_host(stream);
  CHECK(std::all_of(normal.begin() + 300 * 100, normal.end(), [](float v) { return v == 0; }));
  normal.resize(300 * 100);
  CHECK(std::count(normal.begin(), normal.end(), 0.f) == 0);
  CHECK(deviation(normal, 0) == doctest::Approx(0.02).epsilon(0.02));
  const auto uniform = store.find("uniform")->value.to_host(stream);
  const auto [least, most] = std::minmax_element(uniform.begin(), uniform.end());
  CHECK(*least >= -0.5f);
  CHECK(*least < -0.499f);
  CHECK(*most <= 0.5f);
  CHECK(*most > 0.499f);
  CHECK(deviation(uniform, 0) == doctest::Approx(1 / std::sqrt(12.)).epsilon(0.02));
  for (float v : store.find("constant")->value.to_host(stream)) CHECK(v == 3);
}

TEST_CASE("params: bf16 values are the rounded fp32 ones") {
  Stream stream{Device{}};
  std::vector<float> values[2];
  for (DType type : {DType::f32, DType::bf16}) {
    ParamStore store(Device{}, type);
    store.add("w", {10, 10}, Init::normal(1));
    store.seal(false);
    store.initialize(1, stream);
    values[type == DType::bf16] = store.find("w")->value.to_host(stream);
  }
  double worst = 0;
  for (std::size_t i = 0; i < 100; i++)
    worst = std::max(worst, double(std::fabs(values[1][i] / values[0][i] - 1)));
  CHECK(worst > 1e-4);
  CHECK(worst <= 1 / 256.);
}

TEST_CASE("optimizer: gradients of parameters that no op touched are cleared, not used") {
  ParamStore store(Device{}, DType::f32);
  Param &used = store.add("used", {2, 2}, Init::constant(1)),
        &idle = store.add("idle", {3}, Init::constant(1));
  store.seal(true);
  Stream stream{Device{}};
  store.initialize(1, stream);
  engine::AdamW optimizer(store, {.decay = 0.5f, .clip = 100});
  engine::Arena arena{Device{}};
  arena.commit();
  engine::Context context{stream, arena};
  store.begin_step();
  std::fill_n(used.grad.f32(), 4, 2.f);
  std::fill_n(idle.grad.f32(), 3, std::nanf(""));
  used.touched = true;
  optimizer.step(context, 1, 0.01);
  CHECK(optimizer.grad_norm(stream) == doctest::Approx(4));
  // the first step of Adam is the learning rate in size; decay is 0.5 * 0.01 of the value
  for (float v : used.value.to_host(stream)) CHECK(v == doctest::Approx(1 - 0.005 - 0.01).epsilon(1e-6));
  for (float v : idle.value.to_host(stream)) CHECK(v == 1);

  const auto before = store.values().to_host(stream), m = optimizer.first_moment().to_host(stream),
             v = optimizer.second_moment().to_host(stream);
  used.grad.f32()[1] = INFINITY;
  optimizer.step(context, 2, 0.01);
  CHECK(!std::isfinite(optimizer.grad_norm(stream)));
  CHECK(same_bits(store.values().to_host(stream), before));
  CHECK(same_bits(optimizer.first_moment().to_host(stream), m));
  CHECK(same_bits(optimizer.second_moment().to_host(stream), v));
}
