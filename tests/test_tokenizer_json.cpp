// tokenizer.json read: GPT-2's and our own, the same ids again, and what is refused.
#include "data/tokenizer_json.h"

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/bpe_trainer.h"
#include "data/byte_letters.h"
#include "data/foreign_bpe.h"
#include "data/token_file.h"
#include "engine/error.h"
#include "tests/support.h"
#include "tools/format.h"

namespace {

using Json = nlohmann::ordered_json;
using Ids = std::vector<std::uint32_t>;
using tests::run_command;

// As GPT-2's file is laid out: bytes from 0 in the order of their letters, merged tokens from 256, then
// end-of-text. Without the fields that came later.
Json gpt2() {
  Json vocabulary = Json::object();
  for (const unsigned char byte : data::kBytesByLetter) {
    const auto character = static_cast<char>(byte);
    vocabulary[data::spell_bytes({&character, 1})] = vocabulary.size();
  }
  for (const char* token : {"Ġt", "he", "Ġthe", "in", "<|endoftext|>"}) vocabulary[token] = vocabulary.size();
  Json json = Json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 260, "special": true, "content": "<|endoftext|>", "single_word": false,
                      "lstrip": false, "rstrip": false, "normalized": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
    "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false},
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true},
    "model": {"dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
              "fuse_unk": false}})");
  json["model"]["vocab"] = vocabulary;
  json["model"]["merges"] = {"Ġ t", "h e", "Ġt he", "i n"};
  return json;
}

const Json kPairs = Json::parse(R"([["Ġ", "t"], ["h", "e"], ["Ġt", "he"], ["i", "n"]])");
const std::string kText = "the in the\n";
const Ids kIds = {'t' - '!', 257, 220, 259, 258, 198};  // t he Ġ in Ġthe Ċ

std::unique_ptr<data::Tokenizer> parsed(const Json& json) {
  return data::parse_tokenizer_json(json.dump(), "FILE");
}
Ids encoded(const data::Tokenizer& tokenizer, std::string_view text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return ids;
}

std::string refusal(const std::string& text) {
  try {
    data::parse_tokenizer_json(text, "FILE");
  } catch (const engine::Error& error) {
    CHECK(error.code == engine::Exit::checkpoint);
    const std::string what = tools::printable(error.what());
    CHECK(what.starts_with("FILE: "));
    CHECK(what.find('\n') == what.npos);
    return what;
  }
  return "taken";
}
std::string changed(const std::function<void(Json&)>& change) {
  Json json = gpt2();
  change(json);
  return refusal(json.dump());
}
bool holds(const std::string& text, const std::string& part) {
  INFO(text);
  CHECK(text.find(part) != text.npos);
  return text.find(part) != text.npos;
}

}  // namespace

TEST_CASE("tokenizer.json read: GPT-2's, in both notations of merges and whatever the file is called") {
  const tests::TempDir folder;
  Json json = gpt2();
  for (const bool pairs : {false, true}) {
    if (pairs) {
      json["model"]["type"] = "BPE";
      json["model"]["byte_fallback"] = json["model"]["ignore_merges"] = false;
      json["pre_tokenizer"]["use_regex"] = true;
      json["model"]["merges"] = kPairs;
    }
    for (const int indent : {-1, 2}) {
      tests::write_file(folder / "x.bin", "\n" + json.dump(indent) + "\n");
      const auto tokenizer = data::load_tokenizer(folder / "x.bin");
      CHECK(tokenizer->kind() == "bbpe");
      CHECK(tokenizer->size() == 261);
      CHECK(tokenizer->end_of_text() == 260);
      CHECK(tokenizer->piece(258) == "Ġthe");
      CHECK(encoded(*tokenizer, kText) == kIds);
      CHECK(tokenizer->decode(kIds) == kText);
      CHECK(tokenizer->decode(Ids{260, 257}) == "he");
      CHECK(tokenizer->serialize().starts_with("bbpe 0-259\n!\n"));
    }
  }
}

TEST_CASE("tokenizer.json read: any ids, markers anywhere, and what changes no ids") {
  Json json = gpt2();
  Json& model = json["model"];
  std::uint32_t id = 0;
  for (auto& [name, number] : model["vocab"].items()) number = id++ == 0 ? 261u : 261 - id + 1;
  model["vocab"]["<pad>"] = 262;                                    // no added token
  json["added_tokens"][0]["id"] = model["vocab"]["<|endoftext|>"];  // 1
  json["added_tokens"][0]["special"] = false;
  json["added_tokens"].push_back({{"id", 0}, {"content", "[any thing]"}, {"special", true}});
  model["unk_token"] = "<|endoftext|>";
  model["dropout"] = 0.0;
  model["ignore_merges"] = true;
  json["truncation"] = {{"max_length", 1024}};
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {json["pre_tokenizer"]}}};
  json["decoder"] = {{"type", "Sequence"}, {"decoders", {json["decoder"]}}};
  json["post_processor"] = {{"type", "Sequence"}, {"processors", {json["post_processor"]}}};
  Ids ids = kIds;
  for (std::uint32_t& each : ids) each = 261 - each;
  const auto tokenizer = parsed(json);
  CHECK(tokenizer->size() == 263);
  CHECK(tokenizer->end_of_text() == 1);
  CHECK(tokenizer->piece(0) == "[any thing]");
  CHECK(tokenizer->piece(262) == "<pad>");
  CHECK(encoded(*tokenizer, kText) == ids);
  CHECK(encoded(*tokenizer, "<pad>").size() == 5);  // text like any other
  CHECK(tokenizer->decode(ids) == kText);
  json.erase("post_processor");
  json.erase("normalizer");
  json.erase("version");
  CHECK(parsed(json)->serialize() == tokenizer->serialize());

  json = gpt2();
  json["added_tokens"] = Json::array();
  CHECK(parsed(json)->end_of_text() == 260);  // the name tells
  json["model"]["vocab"].erase("<|endoftext|>");
  CHECK(parsed(json)->end_of_text() == data::kNoToken);
  json["model"]["vocab"]["he"] = 260, json["model"]["vocab"]["<|end|>"] = 257;
  CHECK(encoded(*parsed(json), "he") == Ids{260});
}

TEST_CASE("tokenizer.json read: what is written gives the same vocabulary and the same file") {
  data::WordCounts counts;
  std::string text;
  for (int i = 0; i < 300; ++i) text += "漢語 the 漢字詞" + std::to_string(i * i) + " il's\n";
  counts.add(text);
  const auto trained = data::train_byte_bpe(std::move(counts), {.vocab_size = 400, .poll = {}});
  REQUIRE(trained->size() == 400);
  const std::string file = data::tokenizer_json(*trained);
  const auto again = data::parse_tokenizer_json(file, "FILE");
  CHECK(dynamic_cast<const data::ByteBpe*>(again.get()) != nullptr);
  CHECK(again->serialize() == trained->serialize());
  CHECK(data::tokenizer_json(*again) == file);

  const auto foreign = parsed(gpt2());
  const std::string exported = data::tokenizer_json(*foreign);
  const auto back = data::parse_tokenizer_json(exported, "FILE");
  CHECK(back->serialize() == foreign->serialize());
  CHECK(encoded(*back, kText) == kIds);
  CHECK(data::tokenizer_json(*back) == exported);
  const Json json = Json::parse(exported);
  CHECK(json["model"]["vocab"] == gpt2()["model"]["vocab"]);
  CHECK(json["model"]["merges"] == kPairs);
  CHECK(json["added_tokens"].size() == 1);
  CHECK(json["added_tokens"][0]["id"] == 260);
}

TEST_CASE("tokenizer.json read: rules that would give other ids are refused by name") {
  REQUIRE(changed([](Json&) {}) == "taken");
  struct Row {
    const char *place, *value, *says;
  };
  for (const auto& [place, value, says] : std::vector<Row>{
           {"/version", R"("2.0")", "version is \"2.0\", expected \"1.0\""},
           {"/normalizer", R"({"type": "NFC"})", "normalizer is \"NFC\", expected null"},
           {"/normalizer", R"({"type": "Sequence", "normalizers": []})", "normalizer is \"Sequence\""},
           {"/pre_tokenizer", "null", "pre_tokenizer/type is not there, expected \"ByteLevel\""},
           {"/pre_tokenizer/type", R"("Whitespace")", "pre_tokenizer/type is \"Whitespace\""},
           {"/pre_tokenizer/add_prefix_space", "true", "add_prefix_space is true, expected false"},
           {"/pre_tokenizer/use_regex", "false", "use_regex is false, expected true"},
           {"/pre_tokenizer",
            R"({"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]})",
            "pre_tokenizer/type is \"Sequence\""},
           {"/post_processor", R"({"type": "TemplateProcessing", "special_tokens": {"</s>": {}}})",
            "post_processor/type is \"TemplateProcessing\""},
           {"/added_tokens", "{}", "added_tokens is an object, expected a list"},
           {"/decoder", "null", "decoder/type is not there"},
           {"/decoder/type", R"("WordPiece")", "decoder/type is \"WordPiece\""},
           {"/model", R"({"type": "WordPiece", "vocab": {"[UNK]": 0}})", "model/type is \"WordPiece\""},
           {"/model", R"({"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.5]]})",
            "model/type is \"Unigram\", expected \"BPE\""},
           {"/model", "[]", "JSON without a model"},
           {"/model/merges", "{}", "model/merges is an object"},
           {"/model/vocab", "[]", "model/vocab is a list"},
           {"/model/dropout", "0.1", "model/dropout is 0.1"},
           {"/model/byte_fallback", "true", "model/byte_fallback is true"},
           {"/model/ignore_merges", "1", "model/ignore_merges is 1"},
           {"/model/continuing_subword_prefix", R"("##")", "model/continuing_subword_prefix is \"##\""},
           {"/model/end_of_word_suffix", R"("</w>")", "model/end_of_word_suffix is \"</w>\""},
       }) {
    CAPTURE(place);
    const std::string what =
        changed([&](Json& json) { json[Json::json_pointer(place)] = Json::parse(value); });
    if (holds(what, says) && std::string(place) != "/model") CHECK(holds(what, "GPT-2's rules"));
  }
  CHECK(holds(refusal(R"({"!": 0, "\"": 1})"), "a vocab.json lacks the merges"));
  CHECK(holds(refusal(R"({"model/vocab": {}, "model/merges": []})"), "JSON without a model"));
  // A word that would be taken whole.
  CHECK(holds(changed([](Json& json) {
                json["model"]["ignore_merges"] = true;
                json["added_tokens"].push_back({{"id", 261}, {"content", "Ġword"}, {"special", true}});
              }),
              "makes 'Ġword' of a word"));
}

TEST_CASE("tokenizer.json read: tokens, ids and merges that do not fit are refused") {
  const auto with_token = [](const std::string& name, const Json& id) {
    return changed([&](Json& json) { json["model"]["vocab"][name] = id; });
  };
  CHECK(holds(with_token("<a>", 262), "'<a>' has id 262, expected 0 to 261 without holes"));
  CHECK(holds(with_token("<a>", 4294967295u), "the token id 4294967295"));
  CHECK(holds(with_token("<a>", 3000000000u), "'<a>' has id 3000000000"));
  CHECK(holds(with_token("<a>", 5), "'&' and '<a>' both have id 5"));
  CHECK(holds(with_token("<a>", -1), "the token '<a>' without an id"));
  CHECK(holds(with_token("<a>", 1.5), "the token '<a>' without an id"));
  CHECK(holds(with_token("<a>", {1}), "the token '<a>' without an id"));
  CHECK(holds(with_token("<a\n>", 261), "token 261 is '<a\\n>'"));
  CHECK(holds(with_token("hello", 261), "no merge makes the token 'hello', id 261"));
  CHECK(holds(with_token("", 261), "no merge makes the token '', id 261"));
  CHECK(with_token("<中>", 261) == "taken");

  const auto with_added = [](const Json& token) {
    return changed([&](Json& json) { json["added_tokens"].push_back(token); });
  };
  CHECK(holds(with_added("x"), "an added token that is no object"));
  CHECK(holds(with_added({{"id", 261}, {"special", true}}), "no id or no content"));
  CHECK(holds(with_added({{"content", "x"}, {"special", true}}), "'x' has no id"));
  CHECK(holds(with_added({{"id", 261}, {"content", "   "}, {"special", false}}), "a piece of ordinary text"));
  CHECK(holds(with_added({{"id", 261}, {"content", "he"}, {"special", true}}),
              "has id 257 in model/vocab, 261"));
  CHECK(holds(with_added({{"id", 257}, {"content", "he"}, {"special", true}}), "text becomes as well"));
  CHECK(holds(with_added({{"id", 0}, {"content", "!"}, {"special", true}}), "text becomes as well"));
  CHECK(holds(with_added({{"id", 260}, {"content", "<|endoftext|>"}, {"special", true}}), "id 260 twice"));
  CHECK(holds(with_added({{"id", 260}, {"content", "<a>"}, {"special", true}}), "id 260 twice"));
  CHECK(with_added({{"id", 261}, {"content", "<a>"}}) == "taken");

  const auto with_merges = [](const Json& merges) {
    return changed([&](Json& json) { json["model"]["merges"] = merges; });
  };
  CHECK(holds(with_merges({"Ġ t", "h e", "Ġthe x"}), "merge 3 joins 'Ġthe', expected a byte"));
  CHECK(holds(with_merges({"Ġ t", "Ġt he"}), "merge 2 joins 'he'"));
  CHECK(holds(with_merges({"Ġ t", "ń x"}), "merge 2 joins 'ń'"));
  CHECK(holds(with_merges({"Ġ t", "Ġ t"}), "merge 2 makes 'Ġt' again"));
  CHECK(holds(with_merges({"Ġ t", "Ġ x"}), "merge 2 makes 'Ġx', which is not in model/vocab"));
  CHECK(holds(with_merges({"Ġ t", "h e", "Ġt he"}), "no merge makes the token 'in', id 259"));
  for (const Json& wrong : {Json("Ġt"), Json(3), Json({"h"}), Json({"h", "e", "l"}), Json({"h", 1}),
                            Json({"h", {"e"}}), Json(nullptr), Json({{"h", "e"}})})
    CHECK(holds(with_merges({"Ġ t", wrong}), "merge 2, which is neither"));
  CHECK(holds(with_merges({"Ġ t", "h  e"}), "merge 2 joins ' e'"));
  CHECK(holds(changed([](Json& json) { json["model"]["vocab"].erase("Ń"); }), "'<|endoftext|>' has id 260"));
  CHECK(holds(changed([](Json& json) {
                json["model"]["vocab"].erase("Ń");
                json["model"]["vocab"]["<a>"] = 255;
              }),
              "no token 'Ń' for the byte 0xad"));
  // "hel" falls into he and l, so what it is said to join never meets.
  CHECK(holds(changed([](Json& json) {
                json["model"]["vocab"].update({{"el", 261}, {"hel", 262}});
                for (const char* merge : {"e l", "h el"}) json["model"]["merges"].push_back(merge);
              }),
              "merge 6 joins 'h' and 'el', but the ones before it make 'he' and 'l' of that"));
  CHECK(holds(changed([](Json& json) {
                json["model"]["vocab"]["tint"] = 261;
                json["model"]["merges"].push_back("t int");
              }),
              "merge 5 joins 'int'"));
}

TEST_CASE("tokenizer.json read: no JSON, twice the same, too deep, too large") {
  const std::string text = gpt2().dump();
  for (std::size_t size = 0; size < text.size(); size += 41) CHECK(refusal(text.substr(0, size)) != "taken");
  CHECK(holds(refusal(text + "x"), "no JSON at byte " + std::to_string(text.size() + 1)));
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string other = text;
    REQUIRE(other.find(from) != other.npos);
    return refusal(other.replace(other.find(from), from.size(), to));
  };
  CHECK(holds(replaced("\"he\":257", "\"he\":257,\"he\":261"), "the token 'he' twice"));
  CHECK(
      holds(replaced("\"normalizer\":null", "\"normalizer\":null,\"normalizer\":null"), "normalizer twice"));
  CHECK(holds(replaced("\"merges\":[", "\"merges\":[],\"merges\":["), "model/merges twice"));
  CHECK(holds(replaced("\"he\":", "\"h\xFF\":"), "no JSON at byte"));
  CHECK(holds(replaced("\"he\":", "\"h\\ud83d\":"), "no JSON at byte"));
  CHECK(replaced("\"he\":", "\"\\u0068e\":") == "taken");
  const std::string deep(1 << 20, '[');
  CHECK(holds(refusal(deep), "a list"));
  for (const char* place :
       {"\"x\":", "\"added_tokens\":[{\"x\":", "\"model\":{\"vocab\":", "\"normalizer\":"})
    CHECK(holds(refusal("{" + (place + deep)), "nested more than 16 deep"));
  std::string many = "{\"x\":[0";
  for (int i = 0; i < 1000; ++i) many += ",0";
  CHECK(holds(refusal(many), "more than 1000 settings"));
  many = "{\"model\":{\"vocab\":{";
  for (int i = 0; i <= 1 << 20; ++i) many += "\"\":0,";
  CHECK(holds(refusal(many), "more than 1048576 tokens"));
  many = "{\"model\":{\"merges\":[";
  for (int i = 0; i <= 1 << 20; ++i) many += "\" \",";
  CHECK(holds(refusal(many), "more than 1048576 merges"));

  const tests::TempDir folder;
  tests::write_file(folder / "large", "{\"version\":");
  std::filesystem::resize_file(folder / "large", data::kMaxTokenizerJsonBytes + 1);
  try {
    data::load_tokenizer(folder / "large");
    FAIL("taken");
  } catch (const engine::Error& error) {
    CHECK(error.code == engine::Exit::checkpoint);
    CHECK(holds(error.what(), "over 67108864 bytes"));
  }
}

TEST_CASE("tokenizer.json read: told apart from a vocab.txt") {
  for (const char* json : {"{\"a\"", "\uFEFF \n{\r\n\t \"a\":1}", "{\"", "{ \"\""})
    CHECK(data::begins_as_json(json));
  for (const char* other :
       {"", "{", "{}", "{\n}\n\"", "{\n\"\n[UNK]\n", "{\r\n\"\r\n[UNK]", "[PAD]\n{\n\"a\"", "[\"a\"]"})
    CHECK_FALSE(data::begins_as_json(other));
  const tests::TempDir folder;
  tests::write_file(folder / "vocab.txt", "{\n\"\n[UNK]\n");
  CHECK(data::load_tokenizer(folder / "vocab.txt")->size() == 3);
}

TEST_CASE("tokenizer.json read: by every program that takes a vocabulary") {
  const tests::TempDir folder;
  const auto in = [&](const std::string& name) { return " '" + (folder / name).string() + "' "; };
  const std::string tokenizer = tests::program("tokenizer"), inspect = tests::program("inspect");
  const std::string prepare = tests::program("prepare");
  tests::write_file(folder / "gpt2.json", gpt2().dump());
  tests::write_file(folder / "lines", kText + "\xE4 <|endoftext|>\n");
  for (const std::string flag : {" --vocab", " -t"}) {
    auto ran = run_command(tokenizer + " encode" + flag + in("gpt2.json") + "<" + in("lines"));
    CHECK(ran.out.starts_with("83 257 220 259 258\n" /* the line's end is no part of it */));
    tests::write_file(folder / "ids", ran.out);
    ran = run_command(tokenizer + " decode" + flag + in("gpt2.json") + "<" + in("ids"));
    CHECK(ran.out == tests::read_file(folder / "lines"));
  }
  auto ran = run_command(tokenizer + " info" + in("gpt2.json"));
  CHECK(ran.out.starts_with("kind bbpe\nvocab_size 261\nend_of_text 260 <|endoftext|>\nsha256 "));

  // Documents "the", "he in" of llm.c, with end-of-text before each, and the text of one of them.
  std::string ids(1024, '\0');
  for (const auto& [at, number] : {std::pair<std::size_t, std::uint32_t>{0, 20240520}, {4, 1}, {8, 7}})
    ids.replace(at, 4, reinterpret_cast<const char*>(&number), 4);
  for (const std::uint16_t id : {260, 'v' - '!' - 2, 257, 260, 257, 220, 259})
    ids.append(reinterpret_cast<const char*>(&id), 2);
  tests::write_file(folder / "train.bin", ids);
  ran = run_command(inspect + " import llmc" + in("train.bin") + "--vocab" + in("gpt2.json") + "-o" +
                    in("x.bin"));
  CHECK(ran.code == 0);
  {
    const data::TokenFile file(folder / "x.bin");
    file.verify();
    CHECK(file.end_of_text() == 260);
    CHECK(file.documents().size() == 4);  // the first ends where it begins
    CHECK(file.text_bytes_train() == 8);
    CHECK(file.tokenizer()->serialize() == parsed(gpt2())->serialize());
  }
  CHECK(run_command(inspect + " ids" + in("x.bin") + "--count 9").out == "260 83 257 260 257 220 259\n");
  ran = run_command(inspect + " export llmc" + in("x.bin") + "--part all -o" + in("back.bin"));
  CHECK(tests::read_file(folder / "back.bin") == ids);
  // Of a token file, which holds it.
  CHECK(run_command(tokenizer + " export" + in("x.bin") + "-o" + in("out.json")).code == 0);
  CHECK(tests::read_file(folder / "out.json") == data::tokenizer_json(*parsed(gpt2())));

  tests::write_file(folder / "text", "the in\n\nthe the\n");
  for (const std::string flag : {" --vocab", " --tokenizer"}) {
    ran = run_command(prepare + in("text") + "--t2s off --val 0 -o" + in("p.bin") + flag + in("gpt2.json"));
    CHECK(ran.code == 0);
    CHECK(run_command(inspect + " ids" + in("p.bin") + "--count 99").out ==
          "83 257 220 259 260 83 257 258 260\n");
  }
  const std::string target = in("text") + "--t2s off -o" + in("none") + "--vocab" + in("gpt2.json");
  tests::check_one_line(run_command(prepare + target + "--cased"), "prepare", 2,
                        {"--cased", "byte-level BPE"});
  tests::check_one_line(run_command(prepare + target + "--live-vocab"), "prepare", 2,
                        {"--live-vocab: ", "gpt2.json is a byte-level BPE"});
  tests::check_one_line(run_command(tokenizer + " encode --compat hf -t" + in("gpt2.json")), "tokenizer", 2,
                        {"--compat"});
  Json json = gpt2();
  json["normalizer"] = {{"type", "NFC"}};
  tests::write_file(folder / "gpt2.json", json.dump());
  tests::check_one_line(run_command(prepare + target), "prepare", 4, {"gpt2.json: normalizer is \"NFC\""});
  json = gpt2();
  json["model"]["vocab"].erase("<|endoftext|>");
  json["added_tokens"] = Json::array();
  tests::write_file(folder / "gpt2.json", json.dump());
  tests::check_one_line(run_command(prepare + target), "prepare", 4, {"no <|endoftext|>"});
  CHECK_FALSE(std::filesystem::exists(folder / "none"));
}
