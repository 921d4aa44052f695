#include "data/vocabulary_trainer.h"

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "data/document_sample.h"
#include "data/prepare.h"
#include "data/text_cut.h"
#include "data/token_file.h"
#include "data/tokenizer_json.h"
#include "data/wordpiece.h"
#include "engine/error.h"
#include "tests/support.h"

namespace {

using data::DocumentSample;
using tests::run_command;

std::set<std::string> sampled(std::uint64_t bytes, std::uint64_t seed, int documents) {
  DocumentSample sample(bytes, seed);
  for (int i = 0; i < documents; ++i) sample.add(std::to_string(1000 + i));
  CHECK(sample.documents() == static_cast<std::uint64_t>(documents));
  CHECK(sample.bytes() == 4 * static_cast<std::uint64_t>(documents));
  CHECK(sample.kept_bytes() == 4 * sample.kept_documents());
  const auto kept = sample.take();
  return {kept.begin(), kept.end()};
}

// A text of several parts: lines, words and long runs of Han characters.
std::string long_text() {
  std::string text;
  std::uint32_t state = 7;
  const std::vector<std::string> pieces = {"山水", "天地", "人", "，", "。\n",  " the",
                                           " 12",  "ab",   "  ", "é",  "日月星"};
  while (text.size() < 300000) {
    state = state * 1664525 + 1013904223;
    text += pieces[(state >> 16) % pieces.size()];
    if ((state >> 8) % 997 == 0) text += "\n\n";
  }
  return text;
}

}  // namespace

TEST_CASE("document sample: everything that fits, else each document equally often") {
  CHECK(sampled(400, 1, 100).size() == 100);
  CHECK(sampled(399, 1, 100).size() == 99);
  CHECK(sampled(40, 1, 100) == sampled(40, 1, 100));
  CHECK(sampled(40, 1, 100) != sampled(40, 2, 100));
  std::vector<int> times(100);
  for (std::uint64_t seed = 0; seed < 2000; ++seed)
    for (const std::string& document : sampled(80, seed, 100))
      ++times[static_cast<std::size_t>(std::stoi(document) - 1000)];
  for (const int count : times) CHECK(std::abs(count - 400) < 100);  // 400 of 2000, 5.6 standard deviations
  DocumentSample one(10, 1);
  one.add(std::string(100, 'x'));  // larger than the sample, but all there is
  CHECK(one.kept_documents() == 1);
}

TEST_CASE("text cut: GPT-2's words are not cut") {
  const auto cut = [](std::string_view text) { return data::safe_cut(text, data::WordRule::gpt2, nullptr); };
  CHECK(cut("aa aaa\nbb cc") == 7);      // a line end in the second half
  CHECK(cut("aaaa aaa\n bb cc") == 12);  // the blank would go with the line end
  CHECK(cut("aaaaabb cc") == 7);         // before a blank
  CHECK(cut("山水天地，人人") == 15);    // behind the comma
  CHECK(cut("it's don't") == 8);         // before an apostrophe, never behind
  CHECK(cut("山水天地人") == 15);        // nowhere
}

TEST_CASE("vocabulary: bad sizes are refused before anything is read") {
  const auto what = [](data::VocabularyOptions options) -> std::string {
    try {
      data::VocabularyTrainer(options, 1, false);
    } catch (const engine::Error& error) {
      CHECK(error.code == engine::Exit::usage);
      return error.what();
    }
    return "taken";
  };
  CHECK(what({.size = 256}).find("257") != std::string::npos);
  CHECK(what({.size = 257}) == "taken");
  CHECK(what({.kind = data::VocabularyKind::character, .size = 108}).find("109") != std::string::npos);
  CHECK(what({.kind = data::VocabularyKind::character, .coverage = 0}).find("--coverage") == 0);
}

TEST_CASE("prepare: byte-level BPE is the same for any threads, parts and buffers, and its text comes back") {
  const tests::TempDir folder;
  const std::string text = long_text();
  tests::write_file(folder / "in", text);
  for (const bool raw : {false, true}) {
    std::string first;
    for (const int threads : {1, 2, 4}) {
      data::PrepareOptions options;
      options.inputs = {(folder / "in").string()};
      options.output = folder / "out.bin";
      options.t2s = "off";
      options.training.size = 1000;
      options.raw = raw;
      options.split.share = 0;
      options.threads = threads;
      options.window_bytes = std::size_t{997} * static_cast<std::size_t>(threads);
      if (threads > 1) options.part_bytes = 3000, options.block_bytes = 5000;
      const auto report = data::prepare(options);
      CHECK(report.tokenizer.starts_with("trained on the input: 1000 tokens"));
      const std::string bytes = tests::read_file(folder / "out.bin");
      if (first.empty()) first = bytes;
      CHECK(bytes == first);
    }
    const data::TokenFile file(folder / "out.bin");
    CHECK(file.end_of_text() == 0);
    const auto tokenizer = file.tokenizer();
    CHECK(tokenizer->kind() == "bbpe");
    std::vector<std::int32_t> ids(file.size());
    file.read(0, ids);
    if (raw) CHECK(tokenizer->decode(std::vector<std::uint32_t>(ids.begin(), ids.end())) == text);
    else
      CHECK(std::count(ids.begin(), ids.end(), 0) ==
            static_cast<std::ptrdiff_t>(file.documents().size()) - 1);
  }
}

TEST_CASE("vocabulary: a larger text is sampled, and the report says so") {
  const tests::TempDir folder;
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "document " + std::to_string(i) + " 山水\n\n";
  tests::write_file(folder / "in", text);
  data::PrepareOptions options;
  options.inputs = {(folder / "in").string()};
  options.output = folder / "out";
  options.t2s = "off";
  options.training.size = 300;
  options.training.sample_bytes = 2000;
  data::PrepareReport report;
  std::string one;
  for (const int threads : {1, 3}) {
    options.threads = threads;
    const auto tokenizer = data::train_vocabulary(options, report);
    if (one.empty()) one = tokenizer->serialize();
    CHECK(tokenizer->serialize() == one);
  }
  CHECK(report.vocabulary.documents == 1000);
  CHECK(report.vocabulary.sampled_bytes <= 2000);
  CHECK(report.vocabulary.sampled_bytes > 1950);
  CHECK(report.vocabulary.text().find("of 1000 documents, drawn at random") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(folder / "out"));
}

TEST_CASE("tokenizer.json: what Hugging Face's tokenizers save and load") {
  const data::ByteBpe bbpe({"ab", "中"[0] + std::string("\xB8"), "中"}, "test");
  const auto json = nlohmann::json::parse(data::tokenizer_json(bbpe));
  CHECK(json["model"]["type"] == "BPE");
  CHECK(json["model"]["vocab"].size() == 260);
  CHECK(json["model"]["vocab"]["<|endoftext|>"] == 0);
  CHECK(json["model"]["vocab"]["Ġ"] == 221);
  CHECK(json["model"]["vocab"]["ä¸Ń"] == 259);
  CHECK(json["model"]["merges"] == nlohmann::json::array({{"a", "b"}, {"ä", "¸"}, {"ä¸", "Ń"}}));
  CHECK(json["added_tokens"][0]["content"] == "<|endoftext|>");
  CHECK(json["pre_tokenizer"]["add_prefix_space"] == false);

  const data::WordPiece wordpiece({"[UNK]", "a", "##b", "[SEP]"}, {.lower = false}, "test");
  const auto other = nlohmann::json::parse(data::tokenizer_json(wordpiece));
  CHECK(other["model"]["vocab"] == nlohmann::json{{"[UNK]", 0}, {"a", 1}, {"##b", 2}, {"[SEP]", 3}});
  CHECK(other["normalizer"]["lowercase"] == false);
  CHECK(other["added_tokens"].size() == 2);
  CHECK(other["added_tokens"][1]["id"] == 3);
}

TEST_CASE("tokenizer: the program trains, encodes, decodes and exports byte-level BPE") {
  const tests::TempDir folder;
  const std::string program = tests::program("tokenizer"), prepare = tests::program("prepare");
  const auto in = [&](const std::string& name) { return "'" + (folder / name).string() + "'"; };
  std::string text;
  for (int i = 0; i < 60; ++i) text += "漢語 the 漢語詞" + std::to_string(i % 7) + "\n\n";
  tests::write_file(folder / "in.txt", text);
  auto ran =
      run_command(program + " train " + in("in.txt") + " --vocab-size 265 --t2s off -o " + in("t.bin"));
  CHECK(ran.code == 0);
  CHECK(ran.err.find("265 tokens") != std::string::npos);
  ran = run_command(program + " info " + in("t.bin"));
  CHECK(ran.out.find("kind bbpe\nvocab_size 265\nend_of_text 0 <|endoftext|>\nsha256 ") == 0);

  // Any bytes, line by line.
  tests::write_file(folder / "lines", "漢語 the\n\xFF\xE4\xB8 \x01<|endoftext|>\n\n  x  \n");
  CHECK(run_command(program + " encode -t " + in("t.bin") + " <" + in("lines") + " >" + in("ids")).code == 0);
  CHECK(run_command(program + " decode -t " + in("t.bin") + " <" + in("ids") + " >" + in("back")).code == 0);
  CHECK(tests::read_file(folder / "back") == tests::read_file(folder / "lines"));

  // `prepare` trains the same vocabulary, with and without conversion.
  for (const std::string t2s : {" --t2s off", ""}) {
    CHECK(
        run_command(program + " train " + in("in.txt") + " --vocab-size 265 -o " + in("t.bin") + t2s).code ==
        0);
    CHECK(run_command(prepare + " " + in("in.txt") + " --vocab-size 265 -o " + in("x.bin") + t2s).code == 0);
    const auto trained = data::load_tokenizer(folder / "t.bin");
    CHECK(trained->serialize() == data::TokenFile(folder / "x.bin").tokenizer()->serialize());
    std::vector<std::uint32_t> ids;
    trained->encode(t2s.empty() ? "汉语" : "漢語", ids);
    CHECK(ids.size() == 1);
  }
  CHECK(run_command(program + " export " + in("t.bin") + " -o " + in("tokenizer.json")).code == 0);
  CHECK(nlohmann::json::parse(tests::read_file(folder / "tokenizer.json"))["model"]["vocab"].size() == 265);
  ran = run_command(program + " export " + in("t.bin") + " -o " + in("vocab.txt"));
  CHECK(ran.code == 0);
  CHECK(ran.err.starts_with("tokenizer: warning: "));
  CHECK(tests::read_file(folder / "vocab.txt").starts_with("<|endoftext|>\n!\n"));
}
