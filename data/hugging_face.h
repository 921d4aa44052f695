// Characters as Hugging Face's tokenizers (the Rust library, 0.23) take them for BERT: by tables of Unicode
// 8, by which all that is newer is a letter, and with one misprinted bound (docs/data.md, "--compat hf").
#pragma once
#include <cstdint>

#include "data/unicode_tables.h"

namespace data {

// As class_of(), for all code points but surrogates. Marks later than Unicode 8 have no kReordered, though
// the library's NFD moves them.
std::uint8_t hugging_face_class_of(char32_t) noexcept;

// As fold(). Characters later than Unicode 15 stay as they are, though the library lower-cases 55 of them.
Folded hugging_face_fold(char32_t) noexcept;

}  // namespace data
