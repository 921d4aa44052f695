// A conversation: lines in, what the model goes on with out (docs/reference.md, "sample").
#pragma once
#include "data/interrupt.h"
#include "tools/text_generation.h"

namespace tools {

struct Conversation {
  const model::Gpt& gpt;
  engine::Stream& stream;
  const data::Tokenizer& tokenizer;
  const data::Interrupt& interrupt;
  model::SamplerConfig sampler;
  std::uint64_t seed = 0;
  std::int32_t banned = -1;
  std::int64_t tokens = 256;  // of a reply, at most; -1: until the context is full
  TextRules rules = {};
  bool streamed = true;  // a reply is written as it is drawn
  bool quiet = false;
};

// Reads lines from standard input until its end and writes a reply to each. `opening`, unless it has no
// tokens, stands before them: it is shown and replied to first. The terminal does the editing, so it is
// always as it was. There SIGINT ends a reply; at the input, and where no terminal is, it throws
// data::Interrupted, as SIGTERM always does.
void converse(const Conversation&, const Prompt& opening);

}  // namespace tools
