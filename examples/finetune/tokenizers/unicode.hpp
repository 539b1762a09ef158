#pragma once

#include <string>
#include <string_view>

// What the `tokenizers` package knows of Unicode. Its tables are of several ages: categories of Unicode 8,
// decompositions of Unicode 9, case and the digits of Digits of Unicode 17, letters and numbers of regular expressions of
// Unicode 16.
// Characters that came later are treated here as it treats them, whatever ICU's own version.

namespace sparsegrad::finetune::unicode {

bool is_white_space(char32_t c);        ///< property White_Space
bool is_control(char32_t c);            ///< categories Cc, Cf, Co (not Cn)
bool is_nonspacing_mark(char32_t c);    ///< category Mn
bool is_punctuation(char32_t c);        ///< ASCII punctuation and symbols, categories P*
bool is_chinese_character(char32_t c);  ///< the blocks that BERT takes apart
bool is_word_character(char32_t c);     ///< \w of regular expressions
bool is_letter(char32_t c);             ///< \p{L} of regular expressions
bool is_number(char32_t c);             ///< \p{N} of regular expressions
bool is_numeric(char32_t c);            ///< what the pre-tokenizer Digits takes: \p{N} of Unicode 17

/// Canonical decomposition (NFD).
std::u32string decompose(std::u32string_view text);
/// Canonical composition (NFC).
std::u32string compose(std::u32string_view text);

/// Lower case character by character, without context: a final sigma stays as any other, U+0130 becomes two
/// characters.
void append_lower_case(char32_t c, std::u32string& out);

}  // namespace sparsegrad::finetune::unicode
