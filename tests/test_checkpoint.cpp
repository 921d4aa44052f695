// Checkpoints: what was saved comes back bit by bit, and nothing damaged, foreign or not finite gets in or
// out.
#include "engine/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/op_case.h"
#include "tests/support.h"

namespace {

using engine::Checkpoint;
using engine::ContainerReader;
using engine::ContainerWriter;
using engine::Device;
using engine::DType;
using engine::Exit;
using engine::FileType;
using engine::Init;
using engine::Shape;
using tests::same_bits;
using tests::TempDir;

constexpr std::string_view kTokenizer = "the tokenizer's\0bytes";

struct Added {
  const char* name;
  Shape shape;
  std::int64_t rows = 0;
};
const std::vector<Added> kParams{{"embed", {5, 3}, 64}, {"bias", {7}}, {"memory", {2, 2, 2, 3}}};

struct Model {
  explicit Model(std::uint64_t seed, const std::vector<Added>& params = kParams)
      : store(Device{}, DType::f32) {
    for (const auto& p : params) store.add(p.name, p.shape, Init::normal(1), p.rows);
    store.seal(true);
    store.initialize(seed, stream);
    optimizer.emplace(store, engine::AdamWConfig{});
    arena.commit();
  }
  void train(std::int64_t step) {  // one update from made-up gradients
    engine::Context context{stream, arena};
    for (auto& p : store.all()) {
      const auto g = tests::random_values(std::size_t(p.file_shape.numel()), unsigned(step));
      std::copy(g.begin(), g.end(), p.grad.f32());
      p.touched = true;
    }
    optimizer->step(context, step, 0.01);
  }
  void save(const std::filesystem::path& path, bool full = true) {
    engine::save_checkpoint(path,
                            {.params = store,
                             .optimizer = full ? &*optimizer : nullptr,
                             .config = "{\"京\": 1}",
                             .state = "line\nline",
                             .tokenizer = kTokenizer,
                             .made_by = "a test"},
                            stream);
  }
  std::vector<float> slabs() {
    std::vector<float> all;
    for (const auto& slab : {store.values(), optimizer->first_moment(), optimizer->second_moment()}) {
      const auto part = slab.to_host(stream);
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
  engine::Stream stream{Device{}};
  engine::Arena arena{Device{}};
  engine::ParamStore store;
  std::optional<engine::AdamW> optimizer;
};

void load_all(const std::filesystem::path& path, Model& into) {
  const Checkpoint checkpoint(path);
  checkpoint.tokenizer();
  checkpoint.load(into.store, into.stream);
  if (checkpoint.has_optimizer()) checkpoint.load(*into.optimizer, into.store, into.stream);
}

void check_refused(const std::filesystem::path& path, Model& into, const std::string& mentions,
                   Exit code = Exit::checkpoint) {
  try {
    load_all(path, into);
    FAIL_CHECK("taken, expected: ", mentions);
  } catch (const engine::Error& error) {
    const std::string what = error.what();
    CAPTURE(what);
    CHECK(error.code == code);
    CHECK(what.starts_with(path.string() + ": "));
    CHECK(what.find(mentions) != what.npos);
    CHECK(what.find('\n') == what.npos);
  }
}

// Copies a container, all checksums right: tensors under the name that `rename` gives, or not at all where
// that is empty; metadata with `changed` put over it.
void rewrite(const std::filesystem::path& from, const std::filesystem::path& to,
             const std::function<std::string(const std::string&)>& rename,
             const std::map<std::string, std::string>& changed = {}) {
  const ContainerReader file(from);
  ContainerWriter writer;
  for (const auto& [key, value] : file.metadata()) writer.set(key, value);
  for (const auto& entry : file.entries())
    if (const auto name = rename(entry.name); !name.empty())
      writer.add(name, entry.type, entry.shape, entry.bytes);
  for (const auto& [key, value] : changed) writer.set(key, value);
  writer.save(to);
}
std::string same(const std::string& name) { return name; }

}  // namespace

TEST_CASE("checkpoint: parameters, moments and texts come back bit by bit, and training goes on the same") {
  TempDir folder;
  Model saved(1), loaded(2);
  for (int step = 1; step <= 3; step++) saved.train(step);
  saved.save(folder / "ckpt.bin");
  loaded.train(1);
  REQUIRE(!same_bits(saved.slabs(), loaded.slabs()));
  load_all(folder / "ckpt.bin", loaded);
  CHECK(same_bits(saved.slabs(), loaded.slabs()));
  saved.train(4);
  loaded.train(4);
  CHECK(same_bits(saved.slabs(), loaded.slabs()));

  const Checkpoint checkpoint(folder / "ckpt.bin");
  CHECK(checkpoint.config() == "{\"京\": 1}");
  CHECK(checkpoint.state() == "line\nline");
  CHECK(checkpoint.tokenizer() == kTokenizer);
  CHECK(checkpoint.has_optimizer());
}

TEST_CASE("checkpoint: files hold no padding and the same bytes every time") {
  TempDir folder;
  Model model(1);
  model.train(1);
  model.save(folder / "ckpt.bin");
  const ContainerReader file(folder / "ckpt.bin");
  std::map<std::string, std::vector<std::uint64_t>> shapes;
  for (const auto& entry : file.entries()) shapes[entry.name] = entry.shape;
  std::map<std::string, std::vector<std::uint64_t>> expected{{"tokenizer", {kTokenizer.size()}}};
  for (const char* prefix : {"", "optimizer.m.", "optimizer.v."}) {
    expected[std::string(prefix) + "embed"] = {5, 3};
    expected[std::string(prefix) + "bias"] = {7};
    expected[std::string(prefix) + "memory"] = {2, 2, 2, 3};
  }
  CHECK(shapes == expected);
  CHECK(file.meta("format") == "nsa-checkpoint/1");
  CHECK(file.meta("made_by") == "a test");
  CHECK_NOTHROW(engine::verify_checksums(file));
  model.save(folder / "again.bin");
  CHECK(tests::read_file(folder / "again.bin") == tests::read_file(folder / "ckpt.bin"));
}

TEST_CASE("checkpoint: a damaged bit in any tensor is refused by its name") {
  TempDir folder;
  Model model(1);
  model.train(1);
  model.save(folder / "ckpt.bin");
  const std::string good = tests::read_file(folder / "ckpt.bin");
  const ContainerReader file(folder / "ckpt.bin");
  const std::byte* start = file.entries()[0].bytes.data();
  const auto first =
      good.size() - (file.entries().back().bytes.data() + file.entries().back().bytes.size() - start);
  REQUIRE(file.entries().size() == 10);
  for (const auto& entry : file.entries())
    for (std::size_t at : {std::size_t(0), entry.bytes.size() / 2, entry.bytes.size() - 1}) {
      std::string damaged = good;
      damaged[first + std::size_t(entry.bytes.data() - start) + at] ^= 1;
      tests::write_file(folder / "damaged.bin", damaged);
      check_refused(folder / "damaged.bin", model, "tensor " + entry.name + " has the checksum");
      const ContainerReader reader(folder / "damaged.bin", Exit::checkpoint);
      CHECK_THROWS_WITH_AS(engine::verify_checksums(reader), doctest::Contains(entry.name.c_str()),
                           engine::Error);
    }
}

TEST_CASE("checkpoint: another model's file is refused") {
  TempDir folder;
  const auto path = folder / "ckpt.bin";
  Model(1).save(path);
  Model transposed(1, {{"embed", {3, 5}, 64}, {"bias", {7}}, {"memory", {2, 2, 2, 3}}});
  check_refused(path, transposed, "tensor embed does not have the shape [3, 5]");
  Model flat(1, {{"embed", {5, 3}, 64}, {"bias", {7}}, {"memory", {24}}});
  check_refused(path, flat, "tensor memory does not have the shape [24]");
  Model larger(1, {{"embed", {5, 3}}, {"bias", {7}}, {"memory", {2, 2, 2, 3}}, {"more", {1}}});
  check_refused(path, larger, "lacks the tensor more");
  Model smaller(1, {{"embed", {5, 3}}, {"bias", {7}}});
  check_refused(path, smaller, "tensor memory is not part of the model");
}

TEST_CASE("checkpoint: tensors that are missing or unknown, checksums and kinds that are damaged") {
  TempDir folder;
  const auto path = folder / "ckpt.bin", other = folder / "other.bin";
  Model model(1);
  model.save(path);
  rewrite(path, other, same);
  CHECK_NOTHROW(load_all(other, model));
  for (const char* missing : {"tokenizer", "bias", "optimizer.m.bias", "optimizer.v.memory"}) {
    rewrite(path, other, [&](const std::string& name) { return name == missing ? "" : name; });
    check_refused(other, model, fmt::format("lacks the tensor {}", missing));
  }
  for (const char* unknown : {"stranger", "optimizer.m.stranger", "optimizer.bias"}) {
    rewrite(path, other,
            [&](const std::string& name) { return name == "optimizer.m.bias" ? unknown : name; });
    check_refused(other, model, fmt::format("tensor {} is not part of the model", unknown));
  }
  auto sums = nlohmann::json::parse(ContainerReader(path).meta("crc32"));
  sums.erase("embed");
  rewrite(path, other, same, {{"crc32", sums.dump()}});
  check_refused(other, model, "no checksum for the tensor embed");
  for (const char* damaged : {"", "{", "[1]", "{\"embed\":\"x\"}", "{\"embed\":-1}", "{\"embed\":1e300}"}) {
    rewrite(path, other, same, {{"crc32", damaged}});
    check_refused(other, model, "list of checksums is damaged");
  }
  rewrite(path, other, same, {{"kind", "half"}});
  check_refused(other, model, "kind 'half', expected full or weights");
  rewrite(path, other, same, {{"format", "nsa-tokens/1"}});
  check_refused(other, model, "'nsa-tokens/1', expected nsa-checkpoint/1");
  check_refused(folder / "absent.bin", model, "cannot be opened");
}

TEST_CASE("checkpoint: weights alone") {
  TempDir folder;
  Model saved(1), loaded(2);
  saved.train(1);
  saved.save(folder / "best.bin", false);
  const Checkpoint checkpoint(folder / "best.bin");
  CHECK(!checkpoint.has_optimizer());
  CHECK(ContainerReader(folder / "best.bin").entries().size() == 4);
  checkpoint.load(loaded.store, loaded.stream);
  CHECK(same_bits(loaded.store.values().to_host(loaded.stream), saved.store.values().to_host(saved.stream)));
  CHECK_THROWS_WITH_AS(checkpoint.load(*loaded.optimizer, loaded.store, loaded.stream),
                       doctest::Contains("holds weights only"), engine::Error);
}

TEST_CASE("checkpoint: what is not finite is neither saved over a good file nor loaded") {
  TempDir folder;
  const auto path = folder / "ckpt.bin";
  Model model(1);
  model.train(1);
  model.save(path);
  const std::string good = tests::read_file(path);
  for (float bad : {std::nanf(""), INFINITY, -INFINITY})
    for (float* place :
         {&model.store.find("bias")->value.f32()[6],
          &model.store.range_of(*model.store.find("embed"), model.optimizer->second_moment()).f32()[14]}) {
      const float before = std::exchange(*place, bad);
      try {
        model.save(path);
        CHECK(false);
      } catch (const engine::Error& error) {
        CHECK(error.code == Exit::diverged);
        CHECK(std::string(error.what()).find("not saved") != std::string::npos);
      }
      CHECK(tests::read_file(path) == good);
      *place = before;
    }
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);

  const std::vector<float> nan(7, std::nanf(""));  // a file of somebody else, its checksums right
  const auto bytes = std::as_bytes(std::span(nan));
  const ContainerReader file(path);
  auto sums = nlohmann::json::parse(file.meta("crc32"));
  sums["bias"] = engine::crc32_of(bytes);
  ContainerWriter writer;
  for (const auto& [key, value] : file.metadata()) writer.set(key, value);
  writer.set("crc32", sums.dump());
  for (const auto& entry : file.entries())
    writer.add(entry.name, entry.type, entry.shape, entry.name == "bias" ? bytes : entry.bytes);
  writer.save(folder / "nan.bin");
  check_refused(folder / "nan.bin", model, "tensor bias holds a value that is not finite");
}
