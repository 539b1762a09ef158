#include "tokenizers/unicode.hpp"

#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

namespace sparsegrad::finetune::unicode {
namespace {

UChar32 to_icu(char32_t c) {
  return static_cast<UChar32>(c);
}

/// Category as of Unicode 8.
int category_of(char32_t c) {
  // Characters whose category a later version changed.
  switch (c) {
    case 0x166D:
      return U_OTHER_PUNCTUATION;
    case 0x1734:
      return U_NON_SPACING_MARK;
    case 0x1885:
    case 0x1886:
      return U_OTHER_LETTER;
    case 0xA9BD:
      return U_COMBINING_SPACING_MARK;
    case 0x111C9:
      return U_OTHER_PUNCTUATION;
    default:
      break;
  }
  const int category = u_charType(to_icu(c));
  if (c < 0x0300) return category;  // all of these are older
  UVersionInfo age;
  u_charAge(to_icu(c), age);
  return age[0] > 8 ? static_cast<int>(U_UNASSIGNED) : category;
}

struct CaseRange {
  char32_t first, last;
  std::int32_t offset;
};

// Capitals that came with Unicode 16 and 17, for an ICU that is older.
constexpr std::array<CaseRange, 10> recent_capitals{{{0x1C89, 0x1C89, 1},
                                                     {0xA7CB, 0xA7CB, 0x0264 - 0xA7CB},
                                                     {0xA7CC, 0xA7CC, 1},
                                                     {0xA7CE, 0xA7CE, 1},
                                                     {0xA7D2, 0xA7D2, 1},
                                                     {0xA7D4, 0xA7D4, 1},
                                                     {0xA7DA, 0xA7DA, 1},
                                                     {0xA7DC, 0xA7DC, 0x019B - 0xA7DC},
                                                     {0x10D50, 0x10D65, 32},
                                                     {0x16EA0, 0x16EB8, 27}}};

struct Range {
  char32_t first, last;
};

// Letters and numbers that came with Unicode 15.1 and 16, for an ICU that is older.
constexpr std::array<Range, 22> recent_letters{
    {{0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3}, {0x10D4A, 0x10D65},
     {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389}, {0x1138B, 0x1138B}, {0x1138E, 0x1138E},
     {0x11390, 0x113B5}, {0x113B7, 0x113B7}, {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0},
     {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
     {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D}}};
constexpr std::array<Range, 7> recent_numbers{{{0x10D40, 0x10D49},
                                               {0x116D0, 0x116E3},
                                               {0x11BF0, 0x11BF9},
                                               {0x16130, 0x16139},
                                               {0x16D70, 0x16D79},
                                               {0x1CCF0, 0x1CCF9},
                                               {0x1E5F1, 0x1E5FA}}};

/// Whether the category as of Unicode 16 is in `mask`; `recent` are those that an older ICU does not know.
bool is_of_unicode_16(char32_t c, std::uint32_t mask, std::span<const Range> recent) {
  const auto category = U_GET_GC_MASK(to_icu(c));
  if (c < 0x0300) return (category & mask) != 0;  // all of these are older
  if ((category & U_GC_CN_MASK) != 0) {
    return std::any_of(recent.begin(), recent.end(),
                       [c](const Range& range) { return c >= range.first && c <= range.last; });
  }
  if ((category & mask) == 0) return false;
  UVersionInfo age;
  u_charAge(to_icu(c), age);
  return age[0] <= 16;
}

/// Canonical decomposition or composition that leaves characters later than Unicode 9 alone.
class Normalizer {
 public:
  using Instance = const icu::Normalizer2* (*)(UErrorCode&);

  explicit Normalizer(Instance instance) {
    UErrorCode status = U_ZERO_ERROR;
    const icu::Normalizer2* latest = instance(status);
    known_ = icu::UnicodeSet(icu::UnicodeString(u"[:age=9.0:]"), status);
    if (U_FAILURE(status) != 0) {
      throw std::runtime_error(std::string("ICU gives no canonical form: ") + u_errorName(status));
    }
    known_.freeze();
    normalizer_ = std::make_unique<icu::FilteredNormalizer2>(*latest, known_);
  }

  std::u32string operator()(std::u32string_view text) const {
    icu::UnicodeString utf16;
    for (const char32_t c : text)
      utf16.append(to_icu(c));
    UErrorCode status = U_ZERO_ERROR;
    icu::UnicodeString normal;
    normalizer_->normalize(utf16, normal, status);
    if (U_FAILURE(status) != 0) {
      throw std::runtime_error(std::string("ICU's canonical form failed: ") + u_errorName(status));
    }
    std::u32string out;
    out.reserve(text.size());
    for (int i = 0; i < normal.length(); i = normal.moveIndex32(i, 1))
      out.push_back(static_cast<char32_t>(normal.char32At(i)));
    return out;
  }

 private:
  icu::UnicodeSet known_;
  std::unique_ptr<icu::FilteredNormalizer2> normalizer_;
};

}  // namespace

bool is_white_space(char32_t c) {
  return u_isUWhiteSpace(to_icu(c)) != 0;
}

bool is_control(char32_t c) {
  const int category = category_of(c);
  return category == U_CONTROL_CHAR || category == U_FORMAT_CHAR || category == U_PRIVATE_USE_CHAR;
}

bool is_nonspacing_mark(char32_t c) {
  return c >= 0x0300 && category_of(c) == U_NON_SPACING_MARK;
}

bool is_punctuation(char32_t c) {
  if (c < 0x80)
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
  switch (category_of(c)) {
    case U_DASH_PUNCTUATION:
    case U_START_PUNCTUATION:
    case U_END_PUNCTUATION:
    case U_CONNECTOR_PUNCTUATION:
    case U_OTHER_PUNCTUATION:
    case U_INITIAL_PUNCTUATION:
    case U_FINAL_PUNCTUATION:
      return true;
    default:
      return false;
  }
}

bool is_chinese_character(char32_t c) {
  constexpr std::array<std::array<char32_t, 2>, 8> blocks{
      {{0x4E00, 0x9FFF},
       {0x3400, 0x4DBF},
       {0x20000, 0x2A6DF},
       {0x2A700, 0x2B73F},
       {0x2B740, 0x2B81F},
       // The block starts at 2B820; the package has it so.
       {0x2B920, 0x2CEAF},
       {0xF900, 0xFAFF},
       {0x2F800, 0x2FA1F}}};
  return std::any_of(blocks.begin(), blocks.end(),
                     [c](const auto& block) { return c >= block[0] && c <= block[1]; });
}

bool is_word_character(char32_t c) {
  const UChar32 icu_c = to_icu(c);
  const auto mask = U_GET_GC_MASK(icu_c);
  return (mask & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 || u_isUAlphabetic(icu_c) != 0 ||
         u_hasBinaryProperty(icu_c, UCHAR_JOIN_CONTROL) != 0;
}

bool is_letter(char32_t c) {
  return is_of_unicode_16(c, U_GC_L_MASK, recent_letters);
}

bool is_number(char32_t c) {
  return is_of_unicode_16(c, U_GC_N_MASK, recent_numbers);
}

bool is_numeric(char32_t c) {
  // Numbers that came with Unicode 17.
  return is_number(c) || (c >= 0x11DE0 && c <= 0x11DE9) || (c >= 0x16FF4 && c <= 0x16FF6);
}

std::u32string decompose(std::u32string_view text) {
  // Nothing below U+00C0 decomposes or combines.
  if (std::all_of(text.begin(), text.end(), [](char32_t c) { return c < 0x00C0; }))
    return std::u32string(text);
  static const Normalizer decomposer(icu::Normalizer2::getNFDInstance);
  return decomposer(text);
}

std::u32string compose(std::u32string_view text) {
  // Nothing below U+0300 combines or has another composed form.
  if (std::all_of(text.begin(), text.end(), [](char32_t c) { return c < 0x0300; }))
    return std::u32string(text);
  static const Normalizer composer(icu::Normalizer2::getNFCInstance);
  return composer(text);
}

void append_lower_case(char32_t c, std::u32string& out) {
  if (c == 0x0130) {
    out.append({U'i', U'\u0307'});
    return;
  }
  const auto lower = static_cast<char32_t>(u_tolower(to_icu(c)));
  if (lower == c && c >= 0x1C89) {
    for (const CaseRange& range : recent_capitals) {
      if (c >= range.first && c <= range.last) {
        out.push_back(static_cast<char32_t>(static_cast<std::int32_t>(c) + range.offset));
        return;
      }
    }
  }
  out.push_back(lower);
}

}  // namespace sparsegrad::finetune::unicode
