#include <unistd.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "model/generator.h"
#include "tests/small_gpt.h"
#include "tests/support.h"
#include "tests/trained_model.h"

namespace {

// MiB of a row of the memory table.
double planned(const std::string& out, const std::string& row = "in all") {
  const auto at = out.find(" " + row + " ");
  REQUIRE(at != out.npos);
  return std::stod(out.substr(at + row.size() + 2));
}

double resident_bytes() {  // of this process, now
  std::ifstream pages("/proc/self/statm");
  double size = 0, resident = 0;
  pages >> size >> resident;
  return resident * double(sysconf(_SC_PAGESIZE));
}

}  // namespace

TEST_CASE("train memory: the peak is within 5 % of the printed plan, with evaluation, samples and saving" *
          doctest::skip(tests::lacks("train memory: the peak is within 5 % of the printed plan, with "
                                     "evaluation, samples and saving",
                                     tests::kSanitized, "a sanitizer takes memory of its own"))) {
  const auto& model = tests::TrainedModel::get();
  const tests::TempDir folder;
  const std::string out = (folder / "m.bin").string();
  // Large in parameters, small in work: the table of a vocabulary is most of it.
  const std::string flags =
      " --preset tiny --layers 2 --width 1024 --heads 16 --head-dim 64 --ffn 4096 -b 1 --accum 1 -t 40 -x 3 "
      "-n 1 -v 1 --eval-tokens 100 -s 1 --warmup 1 ";
  const tests::Ran ran =
      tests::run_command(tests::program("train_gpt") + flags + "-d " + model.data() + " -o '" + out + "'");
  CAPTURE(ran.err);
  REQUIRE(ran.code == 0);
  std::istringstream log(tests::read_file(folder / "m.log.jsonl"));
  double peak = 0;
  for (std::string line; std::getline(log, line);)
    peak = std::max(peak, 1024 * nlohmann::json::parse(line).value("mem_gb", 0.));
  const double plan = planned(ran.out);
  CHECK(plan > 300);
  CHECK(peak > 0.95 * plan);
  CHECK(peak < 1.05 * plan);
}

TEST_CASE("train memory: the plan has what samples take, where there are any") {
  const auto& model = tests::TrainedModel::get();
  const auto plan = [&](const std::string& rest) {
    const tests::Ran ran = tests::run_command(tests::program("train_gpt") + tests::TrainedModel::flags() +
                                              "--device cpu --memory -d " + model.data() + rest);
    REQUIRE(ran.code == 0);
    double sum = 0;
    for (const char* row : {"parameters", "gradients", "optimizer", "activations"})
      sum += planned(ran.out, row);
    return std::pair(ran.out, planned(ran.out) - sum);
  };
  const auto [without, nothing] = plan(" -s 0");
  CHECK(without.find(" samples ") == without.npos);
  CHECK(std::abs(nothing) < 0.3);
  const std::string wide = " --ffn 60000 --layers 1 --prompt 北京北京北京北京";
  const auto [with, samples] = plan(wide);
  // The prompt's pass holds the feed-forward layer twice, 8 tokens of 60,000.
  CHECK(samples > 2 * 8 * 60000 * 4. / (1 << 20));
  CHECK(samples == doctest::Approx(planned(with, "samples")).epsilon(0.1));
}

TEST_CASE("generation: the memory that a generator names is what it takes" *
          doctest::skip(tests::lacks("generation: the memory that a generator names is what it takes",
                                     tests::kSanitized, "a sanitizer takes memory of its own"))) {
  model::GptConfig config;
  config.vocab = 50000, config.layers = 2, config.width = 64, config.ffn = 4096;
  config.heads = {.query = 4, .kv = 4, .dim = 64};
  const tests::Model m(config);
  engine::Stream stream{engine::Device{}};
  const tests::Ids prompt = tests::random_ids(3000, config.vocab, 1);
  model::Generator(m.gpt(), stream, 1, 100, {}).start(std::span(prompt).first(90));  // buffers of BLAS
  const double before = resident_bytes();
  model::Generator generator(m.gpt(), stream, 8, 3020, {});
  generator.reserve(3000);
  const auto named = double(generator.memory_bytes());
  CHECK(resident_bytes() < before + 0.1 * named);  // a plan alone touches none
  generator.start(prompt);
  for (int i = 0; i < 3; i++) generator.draw();
  CHECK(double(generator.memory_bytes()) == named);
  CHECK(named > 200e6);
  CHECK(resident_bytes() - before > 0.95 * named);
  CHECK(resident_bytes() - before < 1.05 * named);
}
