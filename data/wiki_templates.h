// The templates of a running text: what their arguments show stays where the rest of them is dropped
// (docs/data.md, "Wikitext").
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace data {

enum class TemplateText : std::uint8_t {
  none,         // nothing of it
  first,        // the first argument
  second,       // the second
  last,         // the last
  join,         // all, one after the other
  measure,      // {{convert|10|km}}: number, blank, unit; with the word of a range between two numbers
  birth_death,  // {{bd|1711年|9月25日|1799年|2月7日}}: （1711年9月25日－1799年2月7日）
  link,         // {{link-en|article|foreign article|label}}: the label, else the article
  foreign,      // {{tsl|en|foreign article|article|label}}: the same
  fraction,     // {{frac|1|2}}: 1/2
  number,       // {{formatnum:21893095}}: what follows the colon
};

// `name`: what stands between "{{" and the first '|' or "}}", with any blanks.
TemplateText template_text(std::string_view name);

// What a template of this kind shows. `arguments`: what stood between the bars; named ones count only where
// the name is a number. Appends to `out`.
void show_template(TemplateText, std::string_view name, const std::vector<std::string_view>& arguments,
                   std::string& out);

}  // namespace data
