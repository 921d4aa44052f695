// Wikitext to text: each rule, markup that is never closed, and hostile pages.
#include "data/wikitext.h"

#include <doctest/doctest.h>

#include <ctime>

namespace {

using data::Variant;

// With the verbatim marks, whatever the pieces.
std::string marked(std::string_view page, Variant variant = Variant::simplified) {
  const auto clean = [&](std::size_t piece) {
    data::WikitextCleaner cleaner(variant);
    std::string out;
    for (std::size_t at = 0; at < page.size(); at += piece) cleaner.push(page.substr(at, piece), out);
    cleaner.finish(out);
    return out;
  };
  const std::string whole = clean(std::max<std::size_t>(page.size(), 1));
  for (const std::size_t piece : {1, 2, 7, 130})
    if (page.size() < 10'000) CHECK(clean(piece) == whole);
  return whole;
}

std::string text(std::string_view page, Variant variant = Variant::simplified) {
  std::string out = marked(page, variant);
  std::erase_if(out, data::is_verbatim_mark);
  return out;
}

std::string repeated(std::string_view part, std::size_t times) {
  std::string all;
  all.reserve(part.size() * times);
  for (; times > 0; --times) all += part;
  return all;
}

}  // namespace

TEST_CASE("wikitext: links") {
  CHECK(text("[[首都]]、[[中国|中华]]，[[a|b|c]]") == "首都、中华，b|c");
  CHECK(text("[[:Category:城市]]与[[:en:Beijing|英文]]") == "Category:城市与英文");
  CHECK(text("前[[File:A.jpg|thumb|图[[说明|明]]{{x|y}}]]后[[分類:北京|B]][[Category:X]]尾") == "前后尾");
  CHECK(text("[[文件:甲.png]][[檔案:乙.png|1]][[Image : c|d]]余") == "余");
  CHECK(text("[[en:Beijing]][[zh-yue:北京]][[simple:X]][[Help:帮助|助]][[wikt:字|字]]") == "助字");
  CHECK(text("[[Re:从零开始]]、[[ISO:9000|ISO]]、[[NieR:Automata]][[EN:X]]") ==
        "Re:从零开始、ISO、NieR:Automata");
  CHECK(text("[http://a.b 外链] [https://c.d] [//e.f g h]。") == "外链 g h。");
  CHECK(text("http://a.b/c_d-e 与 [注] a[1]") == "http://a.b/c_d-e 与 [注] a[1]");
  CHECK(text("[[未完\n下一行]] [http://x 未完\n尾]") == "未完\n下一行 未完\n尾]");
}

TEST_CASE("wikitext: templates") {
  CHECK(text("前{{Infobox|a={{b|c}}|d=[[e|f]]}}后{{x}}") == "前后");
  CHECK(text("{{lang|en|Paris}}、{{Lang-fr|Été}}、{{link-en|甲|A}}、{{le|乙|B|丙}}") == "Paris、Été、甲、丙");
  CHECK(text("{{tsl|en|A|甲}}与{{tsl|en|A|甲|乙}}，{{ruby|漢字|かんじ}}") == "甲与乙，漢字");
  CHECK(text("长{{convert|10|km}}、{{convert|5|to|6|kg|lb}}，{{formatnum:21893095}}") ==
        "长10 km、5 to 6 kg，21893095");
  CHECK(text("甲{{bd|1711年|9月25日|1799年|2月7日|Q}}") == "甲（1711年9月25日－1799年2月7日）");
  CHECK(text("{{lang|1=en|2=x|size=3}}{{nowrap|[[a|'''b''']]}}{{frac|1|2}}") == "xb1/2");
  CHECK(text("{{lang|en|未完") == "lang|en|未完");
  CHECK(text("a}} {{{1|x}}}b {c} {{x|{{{y}}}}}d") == "a b {c} d");
}

TEST_CASE("wikitext: tables, headings, lists, lines") {
  CHECK(text("甲\n{| class=\"a\"\n! b\n|-\n| c\n{|\n| d\n|}\n|}\n乙") == "甲\n乙");
  CHECK(text("{{x\n|a=\n{|\n|b\n|}\n|}}\n乙") == "乙");
  CHECK(text("甲\n{|\n| 未完\n== 节 ==\n乙") == "甲\n节\n乙");
  CHECK(text("甲\n| 行 {{x\n|y}} ||\n|}\n乙") == "甲\n乙");
  CHECK(text("== 历史 ==\n===小节=== \n= 一 =\n=x\n==a=b==") == "历史\n小节\n一\n=x\na=b");
  CHECK(text("* 一\n** 二\n#三\n; 四: 五\n:六\n----\n七") == "一\n二\n三\n四: 五\n六\n七");
  CHECK(text("\n\n甲  乙\t丙 \r\n\n \n丁\n\n") == "甲 乙 丙\n丁");
  CHECK(text("'''粗'''''斜'' it's ''''x''''") == "粗斜 it's 'x'");
  CHECK(text("__TOC__甲__NOEDITSECTION__ __init__ __消歧义__a_b") == "甲 __init__ a_b");
}

TEST_CASE("wikitext: tags and entities") {
  CHECK(text("甲<ref name=\"a\">{{cite|</ref>乙<ref name=b />丙<REF>x</Ref >丁") == "甲乙丙丁");
  CHECK(text("a<!-- {{ <ref> -->b<math>x|y</math>c<gallery>\nA|b\n</gallery>d") == "abcd");
  CHECK(text("<nowiki>[[a|b]] '''c''' &lt;</nowiki><nowiki/>d<pre>* e</pre>") == "[[a|b]] '''c''' <d* e");
  CHECK(text("x<sup>2</sup><br />y<div class=z>w</div> 1 < 2 <stdio.h> <a") ==
        "x2\ny\nw\n1 < 2 <stdio.h> <a");
  CHECK(text("&amp;nbsp; &lt;ref&gt; &#91;&#91;a&#93;&#93; &eacute;&alpha;&hellip; &foo; &x") ==
        "&nbsp; <ref> [[a]] éα… &foo; &x");
  CHECK(text("甲<ref>没有结尾 [[a|b]]\n乙") == "甲没有结尾 b\n乙");
  CHECK(text("甲<!-- 没有结尾 [[a|b]]\n乙") == "甲");
}

TEST_CASE("wikitext: parentheses that are left") {
  CHECK(text("甲（{{x}}）乙（{{x}}，{{lang|en|A}}）丙（1年，{{x}}）丁({{x}})") == "甲乙（A）丙（1年）丁");
  CHECK(text("甲（）乙（，b）f()g({{x}}) ( )") == "甲乙（b）f()g");
  CHECK(text("甲（{{x}}、；丙）乙（（{{x}}））") == "甲（丙）乙");
}

TEST_CASE("wikitext: language markup") {
  CHECK(marked("-{乾}-坤") == "\xFE乾\xFF坤");
  const std::string_view rules = "-{zh-hans:简称; zh-hant:簡稱}-";
  CHECK(marked(rules) == "\xFE简称\xFF");
  CHECK(marked(rules, Variant::traditional) == "\xFE簡稱\xFF");
  CHECK(text("-{zh-cn:内存;zh-tw:記憶體;zh-hk:記憶體}-", Variant::traditional) == "記憶體");
  CHECK(text("-{zh-cn:a&nbsp;b;zh-tw:c}-") == "a\u00A0b");
  CHECK(text("-{A|zh-cn:甲;zh-tw:乙}-，-{R|zh-cn:丙}-。-{H|zh-cn:丁;zh-tw:戊}--{T|己}--{-|zh-cn:庚}-") ==
        "甲，zh-cn:丙。");
  CHECK(marked("-{zh-tw:電腦;zh-hk:電腦}-") == "電腦");  // of neither: it is converted
  CHECK(marked("-{zh-hans;zh-hant|乾}-") == "\xFE乾\xFF");
  CHECK(text("-{zh-cn:[[甲|a]];zh-tw:[[乙|b]]}-") == "a");
  CHECK(marked("-{zh-cn:-{乾}-x;zh-tw:y}-") == "\xFE乾x\xFF");
  CHECK(text("-{{lang|en|x}}- -{{{lang|en|y}}}-") == "-x- y");
  CHECK(text("a-b -{未完") == "a-b 未完");
  CHECK(marked("\xFE\xFFx<nowiki>\xFF</nowiki>") == "\xC0\xC0x\xC0");
  CHECK(data::variant_of("t2s") == Variant::simplified);
  CHECK(data::variant_of("/usr/share/tw2sp.json") == Variant::simplified);
  CHECK(data::variant_of("off") == Variant::simplified);
  for (const char* config : {"s2t", "s2twp.json", "x/s2hk", "t2tw"})
    CHECK(data::variant_of(config) == Variant::traditional);
}

TEST_CASE("wikitext: rules hold for the rest of a page") {
  CHECK(marked("電腦-{A|zh-hans:计算机; zh-hant:電腦}-與電腦和计算机") ==
        "電腦\xFE计算机\xFF與\xFE计算机\xFF和\xFE计算机\xFF");
  CHECK(text("-{H|zh-cn:软件;zh-tw:軟體;zh-hk:軟件}-軟體、軟件", Variant::traditional) == "軟體、軟體");
  CHECK(text("-{H|zh-cn:甲;zh-tw:乙}-乙-{-|zh-cn:甲;zh-tw:乙}-乙") == "甲乙");
  CHECK(text("-{H|zh-cn:甲;zh-tw:乙}-乙-{H|zh-cn:丙;zh-tw:乙}-乙") == "甲丙");
  CHECK(text("-{H|zh-cn:短;zh-tw:記}--{H|zh-cn:长;zh-tw:記憶體}-記憶、記憶體、憶體") == "短憶、长、憶體");
  CHECK(text("-{H|舊=>zh-cn:新;zh-cn:甲;zh-tw:乙}-舊新乙甲") == "新新甲甲");
  CHECK(text("-{H|zh-tw:乙;zh-hk:丙}-乙丙") == "乙丙");
  CHECK(marked("-{H|后}-后天") == "\xFE后\xFF天");
  CHECK(text("-{T|zh-cn:甲;zh-tw:乙}-乙-{zh-cn:丁;zh-tw:丙}-丙-{D|zh-cn:丁;zh-tw:丙}-丙") == "乙丁丙丙");
  CHECK(text("-{H;T|zh-cn:甲;zh-tw:乙}-乙") == "甲");
  CHECK(marked("-{H|zh-cn:甲;zh-tw:乙}--{R|乙}--{乙}-") == "\xFE乙\xFF\xFE乙\xFF");
  // What markup says is found first; where it is dropped, its rules are not.
  CHECK(text("-{H|zh-cn:甲;zh-tw:lang}-{{lang|en|lang}} [[lang|b]] [[Category:lang]][[lang]]") == "甲 b 甲");
  CHECK(text("{{Infobox|名=很长的名字-{H|zh-cn:甲;zh-tw:乙}-}}乙丙乙") == "甲丙甲");
  CHECK(text("{{x|{{y|長長長長-{H|zh-cn:甲;zh-tw:乙}-}}-{H|zh-cn:丁;zh-tw:戊}-}}乙戊") == "甲丁");
  CHECK(text("乙-{H|zh-cn:甲;zh-tw:乙丙}-丙乙丙") == "乙丙甲");  // no word reaches across a rule
  // Left out: too long, in lines, ill-formed, nothing, a lot.
  CHECK(text("-{H|zh-cn:甲;zh-tw:" + std::string(65, 'a') + "}-" + std::string(65, 'a')) ==
        std::string(65, 'a'));
  CHECK(text("-{H|zh-cn:甲;zh-tw:" + std::string(64, 'a') + "}-" + std::string(64, 'a')) == "甲");
  CHECK(text("-{H|zh-cn:甲;zh-tw:a\nb}-a\nb") == "a\nb");
  CHECK(text("-{H|a=>zh-cn:;b=>zh-cn:1234567;c=>zh-cn:123456}-abc") == "ab123456");
  CHECK(text("-{H|zh-cn:甲;zh-tw:\xE4\xB8}-\xE4\xB8\x99") == "丙");
  data::WikitextCleaner cleaner(Variant::simplified);
  std::string pages;
  for (const char* page : {"-{H|zh-cn:甲;zh-tw:乙}-乙", "乙"})
    cleaner.push(page, pages), cleaner.finish(pages);
  CHECK(pages == "\xFE甲\xFF乙");
}

TEST_CASE("wikitext: a page has only so many rules, and they take linear time") {
  std::string page;
  for (int i = 0; i < 100'000; ++i)
    page += "-{H|zh-cn:x" + std::to_string(i) + ";zh-tw:y" + std::to_string(i) + "z}-";
  const std::string deep(60, 'a');
  for (int i = 0; i < 60; ++i)
    page = "-{H|zh-cn:b;zh-tw:" + deep.substr(0, 1 + static_cast<std::size_t>(i)) + "c}-" + page;
  page += "\ny0z y939z y940z\n" + repeated(deep, 20'000);
  const std::clock_t start = std::clock();  // of this process: the machine may be busy
  data::WikitextCleaner cleaner(Variant::simplified);
  std::string out;
  cleaner.push(page, out);
  cleaner.finish(out);
  CHECK(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC < 3);
  std::erase_if(out, data::is_verbatim_mark);
  CHECK(out.starts_with("x0 x939 y940z\naaaa"));
}

TEST_CASE("wikitext: hostile pages take linear time") {
  const auto seconds = [](const std::string& page) {
    data::WikitextCleaner cleaner(Variant::simplified);
    std::string out;
    const std::clock_t start = std::clock();  // of this process: the machine may be busy
    for (std::size_t at = 0; at < page.size(); at += 64 << 10)
      cleaner.push(std::string_view(page).substr(at, 64 << 10), out);
    cleaner.finish(out);
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  };
  for (const std::string_view part : {"{{",
                                      "[[",
                                      "-{",
                                      "{",
                                      "<ref>",
                                      "<ref",
                                      "<!--",
                                      "[http://",
                                      "{{[[",
                                      "{{lang|a",
                                      "{|\n",
                                      "\n{|",
                                      "|}",
                                      "}}",
                                      "]]",
                                      "[[a|",
                                      "-{a|",
                                      "（{{x}}",
                                      "&",
                                      "&#",
                                      "<nowiki>",
                                      "</",
                                      "''",
                                      "'",
                                      "_",
                                      "__A",
                                      "=",
                                      "\n=",
                                      "\n|",
                                      "\n----",
                                      "）",
                                      "(",
                                      "{{{",
                                      "}}}",
                                      "}-",
                                      "-{;",
                                      "<a",
                                      "<math></",
                                      "[[File:a|",
                                      "\n[[a",
                                      "\n*",
                                      ";",
                                      "{{x|}}",
                                      "-{a}-",
                                      "[["
                                      "[[[[]]]]]",
                                      "{|\n[[a\n|}",
                                      "<ref></b>",
                                      "  ",
                                      "\xEF"}) {
    CAPTURE(part);
    const std::string page = repeated(part, 400'000 / part.size());
    CHECK(seconds(page) < 0.5);
  }
  CHECK(text(repeated("{{", 50'000) + "x" + repeated("}}", 50'000)).empty());
  CHECK(text(repeated("{{", 1'000) + "x" + repeated("}}", 1'000) + "y") == "y");
  const std::string big(3 << 20, 'a');
  CHECK(text("{{x|" + big + "}}b") == "b");
  CHECK(text("<ref>" + std::string(300 << 10, 'a') + "</ref>b").size() == (300 << 10) + 1);
}
