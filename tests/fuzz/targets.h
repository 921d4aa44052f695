// Fuzz targets: each gives bytes to one parser and checks what must hold of what it takes (docs/testing.md).
// The same functions serve libFuzzer (`make fuzz`) and the replay of the kept inputs (`make test`).
#pragma once
#include <cstddef>
#include <span>
#include <string_view>

namespace tests::fuzz {

using Bytes = std::span<const std::byte>;

// Each returns whether the parser took the bytes; false: it refused them with an engine::Error of one line.
// Any other exception is a finding; Broken is thrown where something does not hold.
bool abstract_xml(Bytes);
bool bzip2(Bytes);
bool byte_bpe(Bytes);
bool checkpoint(Bytes);
bool container(Bytes);
bool encode(Bytes);
bool foreign_tokens(Bytes);
bool gzip(Bytes);
bool input(Bytes);
bool json_lines(Bytes);
bool model_config(Bytes);
bool numbers(Bytes);
bool pages_xml(Bytes);
bool percent(Bytes);
bool plain_text(Bytes);
bool run_state(Bytes);
bool token_file(Bytes);
bool tokenizer(Bytes);
bool tokenizer_json(Bytes);
bool vocabulary(Bytes);
bool wikiextractor(Bytes);
bool wikitext(Bytes);

struct Target {
  std::string_view name;
  bool (*run)(Bytes);
};
inline constexpr Target kTargets[] = {{"abstract_xml", abstract_xml},
                                      {"bzip2", bzip2},
                                      {"byte_bpe", byte_bpe},
                                      {"checkpoint", checkpoint},
                                      {"container", container},
                                      {"encode", encode},
                                      {"foreign_tokens", foreign_tokens},
                                      {"gzip", gzip},
                                      {"input", input},
                                      {"json_lines", json_lines},
                                      {"model_config", model_config},
                                      {"numbers", numbers},
                                      {"pages_xml", pages_xml},
                                      {"percent", percent},
                                      {"plain_text", plain_text},
                                      {"run_state", run_state},
                                      {"token_file", token_file},
                                      {"tokenizer", tokenizer},
                                      {"tokenizer_json", tokenizer_json},
                                      {"vocabulary", vocabulary},
                                      {"wikiextractor", wikiextractor},
                                      {"wikitext", wikitext}};

}  // namespace tests::fuzz
