#include "data/wiki_templates.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace data {
namespace {

constexpr std::string_view kBlanks = " \t\n";
constexpr std::string_view kFormatNumber = "formatnum:";
constexpr std::size_t kNameBytes = 64;  // a longer name is none of these

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kBlanks);
  return first == text.npos ? "" : text.substr(first, text.find_last_not_of(kBlanks) + 1 - first);
}

using Entry = std::pair<std::string_view, TemplateText>;
using enum TemplateText;

// In lower case, sorted.
constexpr Entry kTemplates[] = {
    {"abbr", first},     {"bd", birth_death},  {"big", first},         {"bo", first},
    {"color", second},   {"colour", second},   {"convert", measure},   {"cquote", first},
    {"cvt", measure},    {"frac", fraction},   {"fraction", fraction}, {"ilh", link},
    {"ill", first},      {"illm", first},      {"ipa", first},         {"jpn", first},
    {"kai", first},      {"kbd", first},       {"lang", second},       {"langx", second},
    {"le", link},        {"linktext", join},   {"lj", first},          {"lsjp", first},
    {"lzh", first},      {"math", first},      {"mvar", first},        {"nihongo", first},
    {"nihongo2", first}, {"nobr", first},      {"nobreak", first},     {"nowrap", first},
    {"pua", first},      {"quotation", first}, {"quote", first},       {"ruby", first},
    {"ruby-ja", first},  {"ruby-zh-b", first}, {"ruby-zh-p", first},   {"script", second},
    {"small", first},    {"smaller", first},   {"sub", first},         {"sup", first},
    {"tooltip", first},  {"tq", first},        {"transl", last},       {"tsl", foreign},
    {"unicode", first},  {"val", first},       {"僻字", first},        {"楷体", first},
    {"楷體", first}};
static_assert(std::ranges::is_sorted(kTemplates, {}, &Entry::first));

// "lang-en", "link-ja" and "internal link helper/en" are families, one member a language.
struct Family {
  std::string_view prefix;
  TemplateText text;
};
constexpr Family kFamilies[] = {
    {"lang-", first}, {"link-", link}, {"internal link helper/", link}, {"ipa-", first}};

// Of an argument "2=text" the number; 0 if it has no name, -1 if the name is none.
int numbered(std::string_view& argument) {
  constexpr std::size_t kArgumentName = 32;
  const std::size_t equals = argument.substr(0, kArgumentName).find('=');
  if (equals == argument.npos) return 0;
  const std::string_view name = trimmed(argument.substr(0, equals));
  int number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size() || number < 1) return -1;
  argument.remove_prefix(equals + 1);
  return number;
}

using Positions = std::array<std::string_view, 12>;  // [0] is argument 1

Positions positions(const std::vector<std::string_view>& arguments, std::size_t* count) {
  Positions all;
  std::size_t next = 0;
  for (std::string_view argument : arguments) {
    const int number = numbered(argument);
    if (number < 0) continue;
    const std::size_t at = number == 0 ? next++ : static_cast<std::size_t>(number) - 1;
    if (at >= all.size()) continue;
    all[at] = trimmed(argument);
    *count = std::max(*count, at + 1);
  }
  return all;
}

bool is_range_word(std::string_view word) {
  constexpr std::string_view kWords[] = {"-", "–", "to", "and", "or", "x", "×", "by", "+/-", "±", "至", "到"};
  return std::ranges::find(kWords, word) != std::end(kWords);
}

void show_measure(const Positions& argument, std::string& out) {
  out += argument[0];
  std::size_t unit = 1;
  if (is_range_word(argument[1])) {
    const bool is_word =
        argument[1] == "to" || argument[1] == "and" || argument[1] == "or" || argument[1] == "by";
    out += is_word ? " " : "";
    out += argument[1];
    out += is_word ? " " : "";
    out += argument[2];
    unit = 3;
  }
  if (!argument[unit].empty()) out.append(" ").append(argument[unit]);
}

}  // namespace

TemplateText template_text(std::string_view name) {
  name = trimmed(name);
  if (name.size() > kNameBytes) return none;
  std::string key(name);
  for (char& c : key) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c == '_' ? ' ' : c;
  if (key.starts_with(kFormatNumber)) return number;
  const auto found = std::ranges::lower_bound(kTemplates, std::string_view(key), {}, &Entry::first);
  if (found != std::end(kTemplates) && found->first == key) return found->second;
  for (const Family& family : kFamilies)
    if (key.starts_with(family.prefix)) return family.text;
  return none;
}

void show_template(TemplateText kind, std::string_view name, const std::vector<std::string_view>& arguments,
                   std::string& out) {
  std::size_t count = 0;
  const Positions argument = positions(arguments, &count);
  const auto first_of = [&](std::size_t a, std::size_t b) {
    return argument[a].empty() ? argument[b] : argument[a];
  };
  switch (kind) {
    case none: return;
    case first: out += argument[0]; return;
    case second: out += argument[1]; return;
    case last: out += count > 0 ? argument[count - 1] : ""; return;
    case join:
      for (std::size_t i = 0; i < count; ++i) out += argument[i];
      return;
    case measure: return show_measure(argument, out);
    case birth_death:
      out.append("（").append(argument[0]).append(argument[1]).append("－");
      out.append(argument[2]).append(argument[3]).append("）");
      return;
    case link: out += first_of(2, 0); return;
    case foreign: out += first_of(3, 2); return;
    case fraction:
      out += argument[0];
      for (std::size_t i = 1; i < count; ++i) out.append("/").append(argument[i]);
      return;
    case number: out += trimmed(trimmed(name).substr(kFormatNumber.size())); return;
  }
}

}  // namespace data
