#include "data/language_markup.h"

#include <algorithm>
#include <array>

namespace data {
namespace {

constexpr std::string_view kBlanks = " \t\n";

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kBlanks);
  return first == text.npos ? "" : text.substr(first, text.find_last_not_of(kBlanks) + 1 - first);
}

constexpr std::array<std::string_view, 9> kVariants = {"zh-hans", "zh-cn", "zh-sg", "zh-my", "zh-hant",
                                                       "zh-tw",   "zh-hk", "zh-mo", "zh"};
// In the order in which they are looked for.
constexpr std::string_view kSimplified[] = {"zh-hans", "zh-cn", "zh-sg", "zh-my", "zh"};
constexpr std::string_view kTraditional[] = {"zh-hant", "zh-tw", "zh-hk", "zh-mo", "zh"};

bool is_variant(std::string_view name) { return std::ranges::find(kVariants, name) != kVariants.end(); }

// The variant that a rule begins with ("zh-cn:", "zh-tw :"), whose text then begins at *text; or "".
std::string_view rule_variant(std::string_view rule, std::size_t* text) {
  const std::size_t colon = rule.substr(0, 16).find(':');
  if (colon == rule.npos) return {};
  const std::string_view name = trimmed(rule.substr(0, colon));
  *text = colon + 1;
  return is_variant(name) ? name : "";
}

// Takes the next rule off `rules`: up to a ';' before another variant's name, or the end.
std::string_view next_rule(std::string_view& rules) {
  std::size_t end = 0, text = 0;
  for (;;) {
    end = std::min(rules.find(';', end), rules.size());
    if (end == rules.size()) break;
    const std::string_view rest = rules.substr(end + 1);
    const bool one_way = rest.substr(0, 256).find("=>") < rest.substr(0, 256).find(';');
    if (one_way || trimmed(rest.substr(0, 256)).empty() || !rule_variant(rest, &text).empty()) break;
    ++end;
  }
  const std::string_view rule = rules.substr(0, end);
  rules.remove_prefix(std::min(end + 1, rules.size()));
  return rule;
}

struct Rule {
  std::size_t rank = 0;  // of its variant in the order in which one is looked for; that order's size: foreign
  bool one_way = false;  // "A=>zh-cn:B"
  std::string_view from;  // A
  std::string_view text;  // B
};

constexpr std::size_t kForeign = std::size(kSimplified);
static_assert(kForeign == std::size(kTraditional));

// Calls use(Rule) for each rule that names a variant.
template <class Use> void for_each_rule(std::string_view rules, Variant wanted, const Use& use) {
  const auto& order = wanted == Variant::simplified ? kSimplified : kTraditional;
  while (!rules.empty()) {
    std::string_view text = next_rule(rules);
    Rule rule;
    if (const std::size_t arrow = text.find("=>"); arrow != text.npos) {
      rule.one_way = true;
      rule.from = trimmed(text.substr(0, arrow));
      text.remove_prefix(arrow + 2);
    }
    std::size_t at = 0;
    const std::string_view variant = rule_variant(text, &at);
    if (variant.empty()) continue;
    rule.text = trimmed(text.substr(at));
    rule.rank = static_cast<std::size_t>(std::ranges::find(order, variant) - std::begin(order));
    use(rule);
  }
}

LanguageRule choose(std::string_view markup, Variant wanted) {
  std::size_t best = kForeign;
  std::string_view best_text, first_text;
  bool any = false;
  for_each_rule(markup, wanted, [&](const Rule& rule) {
    if (!any) first_text = rule.text;
    any = true;
    if (rule.rank < best) best = rule.rank, best_text = rule.text;
  });
  if (best < kForeign) return {.text = best_text};
  return {.text = first_text, .verbatim = false};
}

bool has_rules(std::string_view markup) {
  std::size_t text = 0;
  const std::size_t arrow = markup.find("=>");
  return !rule_variant(markup, &text).empty() ||
         (arrow != markup.npos && !rule_variant(markup.substr(arrow + 2), &text).empty());
}

struct Flags {
  bool silent = false;  // the markup shows nothing
  bool raw = false;     // no rules are looked for
  RuleChange change = RuleChange::none;
};

// Flags in front of the bar; unknown ones say nothing.
Flags parse_flags(std::string_view list) {
  bool silent = false, title = false, shown = false, raw = false, added = false, removed = false;
  for (;;) {
    const std::size_t end = std::min(list.find(';'), list.size());
    const std::string_view flag = trimmed(list.substr(0, end));
    silent = silent || flag == "-" || flag == "H" || flag == "D" || flag == "N";
    title = title || flag == "T";
    shown = shown || flag == "A" || flag == "S";
    raw = raw || flag == "R" || is_variant(flag);
    added = added || flag == "A" || flag == "H";
    removed = removed || flag == "-";
    if (end == list.size()) break;
    list.remove_prefix(end + 1);
  }
  const RuleChange change = raw       ? RuleChange::none
                            : removed ? RuleChange::remove
                            : added   ? RuleChange::add
                                      : RuleChange::none;
  return {silent || (title && !shown), raw, change};
}

}  // namespace

Variant variant_of(std::string_view config) {
  config.remove_prefix(config.rfind('/') + 1);  // npos + 1 == 0
  const std::size_t two = config.find('2');
  if (two == config.npos) return Variant::simplified;
  const std::string_view target = config.substr(two + 1);
  return target.starts_with('t') || target.starts_with("hk") ? Variant::traditional : Variant::simplified;
}

LanguageRule resolve_language_markup(std::string_view markup, Variant wanted) {
  Flags flags;
  if (const std::size_t bar = markup.find('|'); bar != markup.npos) {
    flags = parse_flags(markup.substr(0, bar));
    markup.remove_prefix(bar + 1);
  }
  LanguageRule rule;
  if (flags.raw && !flags.silent) rule.text = trimmed(markup);
  else if (!flags.silent) rule = has_rules(markup) ? choose(markup, wanted) : LanguageRule{.text = markup};
  rule.change = flags.change;
  rule.rules = markup;
  return rule;
}

std::vector<Wording> wordings_of(std::string_view rules, Variant wanted, std::size_t most) {
  std::vector<Wording> all;
  const auto add = [&](std::string_view from, std::string_view to) {
    if (all.size() < most) all.push_back({from, to});
  };
  if (!has_rules(rules)) {
    add(trimmed(rules), trimmed(rules));
    return all;
  }
  std::array<std::size_t, 2> best = {kForeign, kForeign};  // [one way]
  std::string_view text;                                   // of the best that is not one way
  for_each_rule(rules, wanted, [&](const Rule& rule) {
    if (rule.rank >= best[rule.one_way]) return;
    best[rule.one_way] = rule.rank;
    if (!rule.one_way) text = rule.text;
  });
  for (const bool one_way : {false, true}) {
    if (best[one_way] == kForeign) continue;
    for_each_rule(rules, wanted, [&](const Rule& rule) {
      if (rule.one_way != one_way) return;
      if (!one_way) add(rule.text, text);
      else if (rule.rank == best[one_way]) add(rule.from, rule.text);
    });
  }
  return all;
}

}  // namespace data
