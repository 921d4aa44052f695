// Token files from and for other programs (docs/reference.md, "Formats of other programs").
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>

#include "data/foreign_tokens.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace data {

// Writes a token file of the ids as they are and in their order. A document ends with each end-of-text of the
// vocabulary; what follows the last one is a document without. `validation_share`: as Split::Rule::tail has
// it. Bytes of text are what each id decodes to by itself; notes.counts is made here. `poll` is called now
// and then and may throw to give up. Memory is bounded. Throws what ForeignTokens and TokenFileWriter do.
TokenFileSummary import_tokens(ForeignTokens&, const Tokenizer&, const std::filesystem::path& output,
                               double validation_share, TokenFileNotes, const std::function<void()>& poll);

// Writes the tokens [from, to) in another format, in 16 bits where all ids of the file's vocabulary fit, else
// in 32; ids of the whole vocabulary where the file numbers live tokens. Throws Error(usage) where the format
// cannot hold them, Error(io). Memory is bounded.
void export_tokens(const TokenFile&, std::uint64_t from, std::uint64_t to, TokenFormat,
                   const std::filesystem::path& output, const std::function<void()>& poll);

}  // namespace data
