// What every program's command line shares: flags with one-line errors, sizes, exit codes, threads.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "engine/error.h"

namespace tools {

inline constexpr std::string_view kVersion = "0.1.0";
std::string made_by();  // "PROGRAM family and version" for the metadata of files

using Body = std::function<int()>;
// Parses the command line and runs the program: `setup` declares flags and returns what to run after parsing.
// Every engine::Error becomes one line on stderr, "program: what", and its exit code; --help and --version
// print and return 0, as does a program whose reader has gone (data::OutputClosed).
// A signal (data::Interrupted) is a line and 128 + its number.
int run_tool(std::string program, std::string about, int argc, char** argv,
             const std::function<Body(CLI::App&)>& setup);

// What all flags have in common; run_tool() sees to it. One given twice takes its last value, as users of
// shells expect, and one that takes no value refuses any.
void settle(CLI::App&);

// A number in [low, high] for `flag`. Throws Error(usage) naming the flag, the text and the range.
std::int64_t parse_integer(std::string_view flag, std::string_view text, std::int64_t low, std::int64_t high);
double parse_real(std::string_view flag, std::string_view text, double low, double high);
// A count or a size: digits with an optional fraction and suffix k (1024), M (1024^2), G (1024^3).
std::int64_t parse_size(std::string_view flag, std::string_view text, std::int64_t low, std::int64_t high);

// Flags that parse through the above. `names` as in CLI11: "-x,--steps".
CLI::Option* add_integer(CLI::App&, std::string names, std::int64_t& value, std::int64_t low,
                         std::int64_t high, std::string about);
CLI::Option* add_real(CLI::App&, std::string names, double& value, double low, double high,
                      std::string about);
CLI::Option* add_size(CLI::App&, std::string names, std::int64_t& value, std::int64_t low, std::int64_t high,
                      std::string about);
// One of a few words. Throws Error(usage) listing them.
CLI::Option* add_choice(CLI::App&, std::string names, std::string& value, std::vector<std::string> choices,
                        std::string about);

// For a flag or argument that names files: an empty name is an unset variable of a script.
CLI::Option* refuse_empty(CLI::Option*);

int default_threads();           // OMP_NUM_THREADS, else min(affinity, cgroup quota)
void use_threads(std::int64_t);  // for OpenMP and BLAS; 0: default_threads()

bool exists(const std::string& path);  // a name that is too long, or may not be looked at, does not
// A flag's value that is a number where a file is due, and no file of that name exists: most likely another
// flag was meant.
bool is_bare_number(const std::string& file);

// The known word nearest to `given`, or empty when none is near.
std::string nearest(std::string_view given, const std::vector<std::string>& known);

}  // namespace tools
