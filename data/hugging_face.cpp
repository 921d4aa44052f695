#include "data/hugging_face.h"

#include <algorithm>
#include <span>

namespace data {
namespace {

using namespace char_class;

struct Range {
  char32_t first, last;
};

// Sorted. Categories Cc, Cf and Co, without tab, LF and CR; U+FFFD.
constexpr Range kControls[] = {
    {0x0, 0x8},         {0xB, 0xC},         {0xE, 0x1F},        {0x7F, 0x9F},       {0xAD, 0xAD},
    {0x600, 0x605},     {0x61C, 0x61C},     {0x6DD, 0x6DD},     {0x70F, 0x70F},     {0x180E, 0x180E},
    {0x200B, 0x200F},   {0x202A, 0x202E},   {0x2060, 0x2064},   {0x2066, 0x206F},   {0xE000, 0xF8FF},
    {0xFEFF, 0xFEFF},   {0xFFF9, 0xFFFB},   {0xFFFD, 0xFFFD},   {0x110BD, 0x110BD}, {0x1BCA0, 0x1BCA3},
    {0x1D173, 0x1D17A}, {0xE0001, 0xE0001}, {0xE0020, 0xE007F}, {0xF0000, 0xFFFFD}, {0x100000, 0x10FFFD}};

// Sorted. Unassigned characters among Han.
constexpr Range kUnassignedHan[] = {{0xFA6E, 0xFA6F},   {0xFADA, 0xFAFF},   {0x2B73A, 0x2B73F},
                                    {0x2B81E, 0x2B81F}, {0x2CEA2, 0x2CEAF}, {0x2FA1E, 0x2FA1F}};

// Sorted. Marks and punctuation of Unicode 15 that Unicode 8 does not know as such, and U+11938, which it
// does not decompose. What else lies in these ranges is a letter in both, without another case.
constexpr Range kNewer[] = {
    {0x61D, 0x61D},     {0x7FD, 0x7FD},     {0x898, 0x8E1},     {0x9FD, 0x9FE},     {0xA76, 0xA76},
    {0xAFA, 0xAFF},     {0xB55, 0xB55},     {0xC04, 0xC3C},     {0xC77, 0xC77},     {0xC84, 0xC84},
    {0xD00, 0xD00},     {0xD3B, 0xD3C},     {0xD81, 0xD81},     {0xEBA, 0xEBA},     {0xECE, 0xECE},
    {0x180F, 0x1886},   {0x1ABF, 0x1ACE},   {0x1B7D, 0x1B7E},   {0x1DF6, 0x1DFB},   {0x2E43, 0x2E5D},
    {0xA82C, 0xA82C},   {0xA8C5, 0xA8C5},   {0xA8FF, 0xA8FF},   {0xA9BD, 0xA9BD},   {0x10D24, 0x10F89},
    {0x11070, 0x11074}, {0x110C2, 0x110C2}, {0x111C9, 0x111C9}, {0x111CF, 0x111CF}, {0x1123E, 0x11241},
    {0x1133B, 0x1133B}, {0x11438, 0x1145E}, {0x11660, 0x1166C}, {0x116B9, 0x116B9}, {0x1182F, 0x1183B},
    {0x11938, 0x1193C}, {0x1193E, 0x11F40}, {0x11F42, 0x11FFF}, {0x12FF1, 0x12FF2}, {0x13440, 0x13455},
    {0x16E97, 0x16F4F}, {0x16FE2, 0x16FE4}, {0x1CF00, 0x1CF46}, {0x1E000, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
    {0x1E944, 0x1E95F}};

constexpr Range kMisprinted = {0x2B820, 0x2B91F};  // begins at 2B920 there: these Han are letters

constexpr char32_t kOncePunctuation[] = {0x166D, 0x111C9};
constexpr char32_t kOnceMark = 0x1734;

bool in(std::span<const Range> ranges, char32_t c) {
  const auto behind = std::ranges::upper_bound(ranges, c, {}, &Range::first);
  return behind != ranges.begin() && c <= (behind - 1)->last;
}

}  // namespace

std::uint8_t hugging_face_class_of(char32_t c) noexcept {
  const std::uint8_t bits = class_of(c);
  if ((bits & kDropped) != 0) {
    if (in(kControls, c)) return kDropped;
    return in(kUnassignedHan, c) ? kHan : std::uint8_t{0};
  }
  if (std::ranges::find(kOncePunctuation, c) != std::end(kOncePunctuation)) return kPunctuation;
  return in(kNewer, c) || in({&kMisprinted, 1}, c) ? std::uint8_t{0} : bits;
}

Folded hugging_face_fold(char32_t c) noexcept {
  if (c == kOnceMark) return {};
  return in(kNewer, c) ? Folded{{c}, 1} : fold(c);
}

}  // namespace data
