#include "tools/cli.h"

#include <omp.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>
#include <numeric>
#include <sstream>
#include <utility>
#include <vector>

#include "data/interrupt.h"
#include "data/text_output.h"
#include "engine/device.h"
#include "tools/console.h"

namespace tools {
namespace {

using engine::Exit;
using engine::fail;
using engine::require;

// Letters inserted, left out, replaced, or two neighbours exchanged.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1), before, above;
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); i++) {
    before = std::exchange(above, row);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); j++) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row.back();
}

std::string_view without_dashes(std::string_view flag) {
  flag.remove_prefix(std::min(flag.find_first_not_of('-'), flag.size()));
  return flag;
}

void collect_flags(const CLI::App& app, std::vector<std::string>& flags) {
  for (const auto* option : app.get_options()) {
    for (const auto& name : option->get_lnames()) flags.push_back("--" + name);
    for (const auto& name : option->get_snames()) flags.push_back("-" + name);
  }
  for (const auto* sub : app.get_subcommands(nullptr))
    if (sub->parsed()) collect_flags(*sub, flags);
}

std::string unexpected(const CLI::App& app) {
  const auto extras = app.remaining(true);
  if (extras.empty()) return "unexpected arguments; see --help";
  std::vector<std::string> flags;
  collect_flags(app, flags);
  const std::string given = extras.front().substr(0, extras.front().find('='));
  if (!given.starts_with('-')) return fmt::format("unexpected argument '{}'; see --help", given);
  const std::string near = nearest(given, flags);
  return near.empty() ? fmt::format("unknown flag {}; see --help", given)
                      : fmt::format("unknown flag {}, did you mean {}?", given, near);
}

// CLI11 takes the argument after "--flag=" for its value, which in a script with an unset variable is another
// flag or an input.
void refuse_cut_flags(const CLI::App& app, int argc, char** argv) {
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames())
      for (int i = 1; i < argc; i++)
        require(argv[i] != "--" + name + "=", Exit::usage, "--{}=: no value was given; see --help", name);
  for (const CLI::App* sub : app.get_subcommands(nullptr)) refuse_cut_flags(*sub, argc, argv);
}

std::string long_name(const std::string& names) {
  const auto comma = names.find(',');
  return comma == names.npos ? names : names.substr(comma + 1);
}

template <class Parse>
CLI::Option* add_parsed(CLI::App& app, std::string names, std::string about, Parse parse) {
  const std::string flag = long_name(names);
  return app.add_option_function<std::string>(
      names, [flag, parse](const std::string& text) { parse(flag, text); }, about);
}

}  // namespace

void settle(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    if (option->get_expected_max() == 1) option->take_last();
    if (option->get_expected_max() == 0)
      option->check([](const std::string& text) -> std::string {
        return text == "true" ? "" : fmt::format("takes no value, '{}' was given", text);
      });
  }
  for (CLI::App* sub : app.get_subcommands(nullptr)) settle(*sub);
}

std::string made_by() { return fmt::format("nsa-engine {}", kVersion); }

std::string nearest(std::string_view given, const std::vector<std::string>& known) {
  constexpr std::size_t kLongest = 64, kTelling = 3;  // letters
  const std::string_view word = without_dashes(given);
  if (word.size() > kLongest) return {};
  std::string best;
  std::size_t least = (word.size() + 1) / 2;  // so much changed is no typing slip
  for (const auto& candidate : known) {
    const std::string_view other = without_dashes(candidate);
    const bool begins = std::min(word.size(), other.size()) >= kTelling &&
                        (word.starts_with(other) || other.starts_with(word));
    const std::size_t distance = begins ? 1 : edit_distance(word, other);
    if (distance < least) least = distance, best = candidate;
  }
  return best;
}

int run_tool(std::string program, std::string about, int argc, char** argv,
             const std::function<Body(CLI::App&)>& setup) {
  guard_standard_streams();
  const auto say = [&](const std::string& what, Exit code) {
    std::fflush(stdout);
    complain(program, what);
    return int(code);
  };
  try {
    CLI::App app(about, program);
    app.set_version_flag("--version", fmt::format("{} {}", program, kVersion));
    app.option_defaults()->always_capture_default();
    const Body body = setup(app);
    settle(app);
    refuse_cut_flags(app, argc, argv);
    try {
      app.parse(argc, argv);
    } catch (const CLI::Success& asked) {  // --help, --version
      std::ostringstream text;
      app.exit(asked, text, text);
      write_out(text.str());
      flush_out();
      return 0;
    } catch (const CLI::ExtrasError&) {
      return say(unexpected(app), Exit::usage);
    } catch (const CLI::ParseError& error) {
      const auto extras = app.remaining(true);  // an unknown flag hides behind "required": name it first
      const bool flag = !extras.empty() && extras.front().starts_with('-');
      return say(flag ? unexpected(app) : fmt::format("{}; see --help", error.what()), Exit::usage);
    }
    return body();
  } catch (const data::OutputClosed&) {
    return 0;
  } catch (const data::Interrupted& stop) {
    complain(program, "stopped by a signal");
    return 128 + stop.signal;
  } catch (const engine::Error& error) {
    return say(error.what(), error.code);
  } catch (const std::bad_alloc&) {
    return say("out of memory; close other programs, or ask for less", Exit::memory);
  } catch (const std::length_error&) {
    return say("out of memory: more asked for than there are addresses; ask for less", Exit::memory);
  } catch (const std::exception& error) {
    return say(error.what(), Exit::failure);
  }
}

std::int64_t parse_integer(std::string_view flag, std::string_view text, std::int64_t low,
                           std::int64_t high) {
  std::int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  require(error == std::errc{} && stop == end && value >= low && value <= high, Exit::usage,
          "{} {}: expected a whole number from {} to {}", flag, text, low, high);
  return value;
}

double parse_real(std::string_view flag, std::string_view text, double low, double high) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  require(error == std::errc{} && stop == end && value >= low && value <= high, Exit::usage,
          "{} {}: expected a number from {:g} to {:g}", flag, text, low, high);
  return value;
}

std::int64_t parse_size(std::string_view flag, std::string_view text, std::int64_t low, std::int64_t high) {
  std::string_view digits = text;
  double unit = 1;
  if (!digits.empty()) {
    switch (digits.back()) {
      case 'k':
      case 'K': unit = 1024.; break;
      case 'm':
      case 'M': unit = 1024. * 1024; break;
      case 'g':
      case 'G': unit = 1024. * 1024 * 1024; break;
      default: break;
    }
    if (unit != 1) digits.remove_suffix(1);
  }
  double value = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, value);
  value = std::floor(value * unit);
  const bool whole = error == std::errc{} && stop == end && value >= -0x1p63 && value < 0x1p63;
  const std::int64_t count = whole ? std::int64_t(value) : 0;
  require(whole && count >= low && count <= high, Exit::usage,
          "{} {}: expected a count from {} to {}, with k, M or G for 1024, 1024^2, 1024^3", flag, text, low,
          high);
  return count;
}

CLI::Option* add_integer(CLI::App& app, std::string names, std::int64_t& value, std::int64_t low,
                         std::int64_t high, std::string about) {
  return add_parsed(app, names, std::move(about),
                    [&value, low, high](const std::string& flag, const std::string& text) {
                      value = parse_integer(flag, text, low, high);
                    })
      ->type_name("N")
      ->default_str(fmt::format("{}", value));
}

CLI::Option* add_real(CLI::App& app, std::string names, double& value, double low, double high,
                      std::string about) {
  return add_parsed(app, names, std::move(about),
                    [&value, low, high](const std::string& flag, const std::string& text) {
                      value = parse_real(flag, text, low, high);
                    })
      ->type_name("X")
      ->default_str(fmt::format("{:g}", value));
}

CLI::Option* add_size(CLI::App& app, std::string names, std::int64_t& value, std::int64_t low,
                      std::int64_t high, std::string about) {
  return add_parsed(app, names, std::move(about),
                    [&value, low, high](const std::string& flag, const std::string& text) {
                      value = parse_size(flag, text, low, high);
                    })
      ->type_name("N[kMG]")
      ->default_str(fmt::format("{}", value));
}

CLI::Option* add_choice(CLI::App& app, std::string names, std::string& value,
                        std::vector<std::string> choices, std::string about) {
  std::string listed;
  for (const auto& choice : choices) listed += (listed.empty() ? "" : "|") + choice;
  return add_parsed(app, names, std::move(about),
                    [&value, choices, listed](const std::string& flag, const std::string& text) {
                      require(std::find(choices.begin(), choices.end(), text) != choices.end(), Exit::usage,
                              "{} {}: expected one of {}", flag, text, listed);
                      value = text;
                    })
      ->type_name(listed)
      ->default_str(value);
}

CLI::Option* refuse_empty(CLI::Option* option) {
  return option->check([](const std::string& text) -> std::string {
    return text.empty() ? "an empty name was given, expected one" : "";
  });
}

bool exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

bool is_bare_number(const std::string& file) {
  return !file.empty() && file.find_first_not_of("0123456789.") == file.npos && !exists(file);
}

int default_threads() {
  if (const char* wanted = std::getenv("OMP_NUM_THREADS"); wanted && *wanted) return omp_get_max_threads();
  int threads = omp_get_num_procs();
  std::ifstream limit("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (limit >> quota >> period && period > 0) threads = std::min(threads, std::max(1, int(quota / period)));
  return threads;
}

void use_threads(std::int64_t threads) {
  engine::use_cpu_threads(threads > 0 ? int(threads) : default_threads());
}

}  // namespace tools
