// inspect's import and export: token files from and for other programs (docs/reference.md).
#pragma once
#include "tools/cli.h"

namespace tools {

Body add_import(CLI::App&);  // declares the command's flags; what it returns does the work
Body add_export(CLI::App&);

}  // namespace tools
