// sample as a program: what it writes, how its seeds behave, and what it refuses.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <tuple>

#include "data/utf8.h"
#include "engine/container.h"
#include "tests/changed_container.h"
#include "tests/trained_model.h"

namespace {

using tests::check_refused;
using tests::program;
using tests::Ran;
using tests::run_command;
using tests::TempDir;
using tests::TrainedModel;

Ran sample(const std::string& rest) { return run_command(program("sample") + " " + rest); }
std::string trained(const std::string& rest) { return "-c " + TrainedModel::get().checkpoint() + " " + rest; }

}  // namespace

TEST_CASE("sample: the prompt, then the text, then a line feed") {
  const Ran ran = sample(trained("-p 北京 -n 20 --seed 3"));
  REQUIRE(ran.code == 0);
  CHECK(ran.out.starts_with("北京"));
  CHECK(ran.out.ends_with("\n"));
  CHECK(std::count(ran.out.begin(), ran.out.end(), '\n') == 1);
  CHECK(ran.err.find("seed 3") != std::string::npos);
  CHECK(ran.err.find("tok/s") != std::string::npos);
  CHECK(sample(trained("-p 北京 -n 0")).out == "北京\n");
  CHECK(sample(trained("-p 北京 -n 5 --quiet")).err == "");
  CHECK(sample(trained("-n 5 --ignore-eos --seed 1")).code == 0);
}

TEST_CASE("sample: a seed gives the same bytes however they are written") {
  const std::string first = sample(trained("-p 北京 -n 30 --seed 5 --ignore-eos")).out;
  CHECK(sample(trained("-p 北京 -n 30 --seed 5 --ignore-eos")).out == first);
  CHECK(sample(trained("-p 北京 -n 30 --seed 5 --ignore-eos --no-stream")).out == first);
  CHECK(sample(trained("-p 北京 -n 30 --seed 6 --ignore-eos")).out != first);
  std::string four = first;
  for (const char* seed : {"6", "7", "8"})
    four += "---\n" + sample(trained("-p 北京 -n 30 --ignore-eos --seed ") + seed).out;
  CHECK(sample(trained("-p 北京 -n 30 --seed 5 --ignore-eos -N 4")).out == four);
  CHECK(sample(trained("-p 北京 -n 30 --seed 5 --ignore-eos -N 4 --no-stream")).out == four);
  CHECK(sample(trained("-p 北京 -n 30 --temp 0 --seed 1")).out ==
        sample(trained("-p 北京 -n 30 --temp 0 --seed 2")).out);
  CHECK(sample(trained("-p 北京 -n 30 --temp 0.7 --top-frac 0.1 --seed 2")).code == 0);
}

TEST_CASE("sample: prompts from a file, standard input and longer than the context") {
  TempDir folder;
  const std::string file = "'" + (folder / "prompt").string() + "'";
  tests::write_file(folder / "prompt", "北京\n");
  const std::string expected = sample(trained("-p 北京 -n 10 --seed 1")).out;
  CHECK(sample(trained("-n 10 --seed 1 -f " + file)).out == expected);
  CHECK(run_command("cat " + file + " | " + program("sample") + " " + trained("-f - -n 10 --seed 1")).out ==
        expected);
  tests::write_file(folder / "prompt", std::string("北京\xff是"));
  CHECK(sample(trained("-n 0 -f " + file)).out == "北京\xef\xbf\xbd是\n");
  std::string longer;
  for (int i = 0; i < 50; i++) longer += "北京";
  tests::write_file(folder / "prompt", longer);
  const Ran ran = sample(trained("-n 2 -f " + file));
  CHECK(ran.code == 0);
  CHECK(ran.err.find("only its end") != std::string::npos);
}

TEST_CASE("sample: a prompt that fills the trained length leaves room for what is asked for") {
  std::string longer;  // 100 tokens; the model was trained at 40
  for (int i = 0; i < 50; i++) longer += "北京";
  const auto end = [&](std::size_t tokens) { return longer.substr(longer.size() - 3 * tokens); };
  const auto added = [&](const std::string& prompt, const std::string& rest) {
    const Ran ran = sample(trained("--ignore-eos --seed 1 -p ") + prompt + rest);
    CHECK(ran.code == 0);
    REQUIRE(ran.out.starts_with(prompt));
    return ran.out.substr(prompt.size());
  };
  CHECK(added(longer, " -n 12") == added(end(28), " -n 12"));
  CHECK(added(longer, " -n 30") == added(end(20), " -n 30"));
  CHECK(added(longer, " -n -1") == added(end(20), " -n -1"));
  CHECK(added(longer, " -n -1").size() > 20);
  CHECK(added(end(40), " -n 10") == added(end(30), " -n 10"));
  const std::string shorter = trained("-n 12 --seed 1 -p ") + longer;
  CHECK(sample(shorter).err.find("only its end is read, 28 tokens") != std::string::npos);
  CHECK(sample(shorter).err.find("pass the trained length") == std::string::npos);
  CHECK(sample(trained("-n 30 -p ") + longer).err.find("50 tokens pass the trained length") !=
        std::string::npos);
}

TEST_CASE("sample: any number of tokens takes the memory of the trained length" *
          doctest::skip(tests::lacks("sample: any number of tokens takes the memory of the trained length",
                                     tests::kSanitized, "the address sanitizer needs more"))) {
  // More address space than the program takes, far less than a cache of so many tokens.
  const auto begin = [](const std::string& rest) {
    return run_command("ulimit -v 4000000; " + program("sample") + " " +
                       trained("-p 北京 -n 1000000000 --ignore-eos --seed 5 --quiet " + rest) +
                       " | head -c 3000");
  };
  const Ran ran = begin("");
  CHECK(ran.out.size() == 3000);
  CHECK(ran.err.find("pass the trained length") != std::string::npos);
  CHECK(ran.err.find("out of memory") == std::string::npos);
  CHECK(begin("-N 3").out == ran.out);
  // What is asked for does not change what comes first.
  const std::string shorter = sample(trained("-p 北京 -n 70 --ignore-eos --seed 5")).out;
  CHECK(ran.out.starts_with(shorter.substr(0, shorter.size() - 10)));
}

TEST_CASE("sample: stop texts, in any order, however the text is written and beside others") {
  const std::string flags = trained("-p 北京 -n 30 --seed 5 --ignore-eos ");
  const std::string whole = sample(flags).out, added = whole.substr(6);
  // Two stop texts that need no quoting: the first Han, or the like, after a few, and two together later on.
  const auto wide = [&added](std::size_t from, std::size_t count) {
    for (std::size_t at = from;; at++)
      if (std::size_t n = 0; data::utf8_length(added[at]) == 3 && (added[at] & 0x40)) {
        while (n < count && data::utf8_length(added[at + 3 * n]) == 3) n++;
        if (n == count) return added.substr(at, 3 * count);
      }
  };
  const std::string late = wide(50, 2), early = wide(24, 1);
  const auto until = [&](const std::string& stop) {
    return "北京" + added.substr(0, added.find(stop)) + "\n";
  };
  for (const char* how : {"", "--no-stream "}) {
    CHECK(sample(flags + how + "--stop '" + late + "'").out == until(late));
    CHECK(sample(flags + how + "--stop '" + late + "' --stop='" + early + "'").out == until(early));
    CHECK(sample(flags + how + "--stop '" + early + "' --stop '" + late + "'").out == until(early));
    CHECK(sample(flags + how + "--stop '[" + early + "," + late + "]'").out == whole);
    CHECK(sample(flags + how + "--stop 北京 --stop '" + late + "x'").out ==
          until("北京").substr(0, until("北京").size() - (added.find("北京") == added.npos ? 1 : 0)));
    const std::string two = sample(flags + how + "-N 2 --stop '" + early + "'").out;
    CHECK(two.starts_with(until(early) + "---\n北京"));
    CHECK(two.size() > until(early).size() + 10);
  }
}

TEST_CASE("sample: percent escapes are shown as what they stand for") {
  CHECK(sample(trained("-n 0 --decode-urls -p %E6%95%B0/%e5%ad%a6%9d%")).out == "数/学%9d%\n");
  CHECK(sample(trained("-n 0 -p %E6%95%B0")).out == "%E6%95%B0\n");
  const std::string rest = "-p 100%E6 -n 20 --seed 3 --decode-urls";
  CHECK(sample(trained(rest)).out == sample(trained(rest + " --no-stream")).out);
}

TEST_CASE("sample: how well a file is predicted") {
  const auto& model = TrainedModel::get();
  const auto figures = [](const std::string& line) {
    const auto at = [&line](const char* name) {
      return std::stod(line.substr(line.find(name) + std::strlen(name)));
    };
    return std::tuple(at("loss "), at("bpb "), at("tokens "), at("difference "));
  };
  const Ran data = sample(trained("--ppl " + model.data()));
  REQUIRE(data.code == 0);
  CHECK(data.err.find("validation part") != std::string::npos);
  const std::string& trained_out = model.training().out;
  std::string last = trained_out.substr(trained_out.find("val 20 | loss "));
  last = last.substr(0, last.find('\n'));
  const auto [loss, bpb, tokens, difference] = figures(data.out);
  CHECK(last.starts_with(fmt::format("val 20 | loss {:.4f} | bpb {:.4f} |", loss, bpb)));
  CHECK(tokens > 100);
  CHECK(difference < 1e-5);
  CHECK(sample(trained("--quiet --ppl " + model.data())).err == "");

  TempDir folder;
  std::string text;
  for (int i = 0; i < 700; i++) text += i % 3 == 0 ? "北京。" : "数学";
  tests::write_file(folder / "text", text);
  const std::string file = "'" + (folder / "text").string() + "'";
  const Ran long_text = sample(trained("--ppl " + file));
  const auto [text_loss, text_bpb, text_tokens, text_difference] = figures(long_text.out);
  CHECK(long_text.out.find("| tokens 1,634 | by the cache, the first 1,024: loss ") != std::string::npos);
  CHECK(text_bpb == doctest::Approx(text_loss * 1634 / std::log(2.) / double(text.size())).epsilon(1e-3));
  CHECK(text_difference < 1e-5);
  CHECK(run_command(program("sample") + " " + trained("--ppl - <" + file)).out == long_text.out);
  const auto quoted = [&folder](const char* name) { return "'" + (folder / name).string() + "'"; };
  const std::string sample_text =
      "'" + (tests::repository() / "data/sample/zhwiki-abstract-sample.xml").string() + "'";
  REQUIRE(
      run_command(program("tokenizer") + " train " + sample_text + " --kind char -o " + quoted("v")).code ==
      0);
  REQUIRE(run_command(program("prepare") + " " + file + " --val 0 --tokenizer " + quoted("v") + " -o " +
                      quoted("all"))
              .code == 0);
  const Ran all = sample(trained("--ppl " + quoted("all")));
  CHECK(all.err.find("no validation part") != std::string::npos);
  CHECK(all.out.find("| tokens 1,634 |") != std::string::npos);  // end-of-text at its end instead
  tests::write_file(folder / "text", "");
  check_refused(sample(trained("--ppl " + file)), "sample", 3, "text");
  check_refused(sample(trained("--ppl /nowhere.txt")), "sample", 3, "/nowhere.txt");
  check_refused(sample(trained("--ppl " + model.checkpoint())), "sample", 3, "ckpt.bin");
  tests::write_file(folder / "text", "一二三四\n\n五六七八\n");
  REQUIRE(
      run_command(program("prepare") + " " + file + " --kind char --t2s off -o " + quoted("other")).code ==
      0);
  check_refused(sample(trained("--ppl " + quoted("other"))), "sample", 4, "vocabulary");
  tests::copy_changed(folder / "all", folder / "other",
                      [](tests::ContainerParts& file) { file.metadata["vocab_size"] = "40000"; });
  check_refused(sample(trained("--ppl " + quoted("other"))), "sample", 3, "vocab_size 40000");
}

TEST_CASE("sample: a signal ends the wait for standard input") {
  TempDir folder;
  const std::string pipe = "'" + (folder / "pipe").string() + "'";
  for (const char* flag : {"--ppl -", "-f -"}) {
    CAPTURE(flag);
    const Ran ran = run_command("mkfifo -m 600 " + pipe + "; exec 3<>" + pipe +
                                "; timeout --preserve-status -s INT -k 10 1 " + program("sample") + " " +
                                trained(flag) + " <&3; code=$?; rm " + pipe + "; exit $code");
    CHECK(ran.code == 128 + SIGINT);
  }
}

TEST_CASE("sample: precision on the CPU") {
  const Ran usual = sample(trained("-p 北京 -n 20 --seed 3"));
  CHECK(usual.err.find("fp32 (the CPU computes in fp32)") != std::string::npos);
  for (const char* dtype : {"auto", "fp32", "bf16"}) {
    const Ran ran = sample(trained("-p 北京 -n 20 --seed 3 --device cpu --dtype ") + dtype);
    CHECK(ran.code == 0);
    CHECK(ran.err.find("; fp32") != std::string::npos);
  }
}

TEST_CASE("sample: a reader that goes away ends it quietly") {
  const Ran ran = run_command(program("sample") + " " +
                              trained("-n 100000 --ignore-eos --quiet -N 1000 | head -c 30 >/dev/null"));
  CHECK(ran.code == 0);
  CHECK(ran.err.find("Broken") == std::string::npos);
}

TEST_CASE("sample: refusals") {
  TempDir folder;
  const std::string file = "'" + (folder / "file").string() + "'";
  check_refused(sample(""), "sample", 2, "--ckpt");
  check_refused(sample("-c 3"), "sample", 2, "-c 3");
  check_refused(sample(trained("--tmep 1")), "sample", 2, "--temp");
  check_refused(sample(trained("--temp hot")), "sample", 2, "hot");
  check_refused(sample(trained("--top-p 1.5")), "sample", 2, "1.5");
  check_refused(sample(trained("-N 0")), "sample", 2, "--samples 0");
  check_refused(sample(trained("--stop ''")), "sample", 2, "--stop");
  check_refused(sample(trained("--stop=")), "sample", 2, "--stop");
  check_refused(sample(trained("--stop a --stop \"$(printf '\\346\\225')\"")), "sample", 2, "UTF-8");
  check_refused(sample(trained("-i -N 2")), "sample", 2, "-N 2");
  check_refused(sample(trained("-i -f -")), "sample", 2, "-f -");
  for (const char* other : {"-i", "-N 2", "-p a", "-f a", "--stop a"})
    check_refused(sample(trained("--ppl x ") + other), "sample", 2, "--ppl");
  check_refused(sample(trained("--ppl ''")), "sample", 2, "--ppl");
  check_refused(sample(trained("--dtype fp16")), "sample", 2, "auto|fp32|bf16");
  check_refused(sample("-c /nowhere.bin"), "sample", 4, "/nowhere.bin");
  check_refused(sample("-c " + TrainedModel::get().data()), "sample", 4, "nsa-checkpoint");
  check_refused(sample(trained("-f /nowhere.txt")), "sample", 3, "/nowhere.txt");
  const std::string bytes = tests::read_file(TrainedModel::get().folder() / "ckpt.bin");
  for (std::size_t size : {std::size_t(0), std::size_t(5), bytes.size() / 2, bytes.size() - 1}) {
    tests::write_file(folder / "file", std::string_view(bytes).substr(0, size));
    check_refused(sample("-c " + file), "sample", 4, "file");
  }
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  std::string damaged = bytes;
  damaged[8 + header + 101] = static_cast<char>(damaged[8 + header + 101] ^ 1);
  tests::write_file(folder / "file", damaged);
  check_refused(sample("-c " + file), "sample", 4, "checksum");
  tests::copy_changed(TrainedModel::get().folder() / "ckpt.bin", folder / "file",
                      [](tests::ContainerParts& checkpoint) {
                        std::string& tokenizer = checkpoint.tensors["tokenizer"];
                        tokenizer.replace(tokenizer.find("\n[SEP]\n"), 7, "\n[SEX]\n");
                        auto checksums = nlohmann::json::parse(checkpoint.metadata["crc32"]);
                        checksums["tokenizer"] = engine::crc32_of(std::as_bytes(std::span(tokenizer)));
                        checkpoint.metadata["crc32"] = checksums.dump();
                      });
  for (const char* what : {" -n 1", " --ppl - <<<a", " -i <<<''"})
    check_refused(run_command("bash -c \"" + program("sample") + " -c " + file + what + "\""), "sample", 4,
                  "no [SEP]");
  if (!std::filesystem::exists("/dev/nvidia0"))
    check_refused(sample(trained("--device cuda")), "sample", 9, "cuda");
  CHECK(sample("--help").out.find("--top-frac") != std::string::npos);
}
