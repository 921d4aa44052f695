#!/bin/sh
# The rules of the house that a machine can check: format, which folder may include what, file length.
set -u
failed=0
report() {  # report TITLE LINES: complains if there are lines
  [ -z "$2" ] && return
  printf '%s\n%s\n' "$1" "$2" >&2
  failed=1
}
sources=$(git ls-files -co --exclude-standard -- 'engine/*' 'model/*' 'kernels/*' 'data/*' 'tools/*' 'tests/*' |
  grep -E '\.(h|cpp|cu|cuh)$' | while read -r file; do [ -f "$file" ] && echo "$file"; done)
grep_in() { echo "$sources" | grep -E "$1" | xargs -r grep -HnE "$2"; }

report 'kernels may include kernels only:' "$(grep_in '^kernels/' '#include "(engine|model|data|tools|tests)/')"
report 'engine may include kernels/*.h and engine only:' \
  "$(grep_in '^engine/' '#include "(model|data|tools|tests)/|#include "kernels/.*\.cuh"')"
report 'model may include engine only:' "$(grep_in '^model/' '#include "(kernels|data|tools|tests)/')"
report 'data may include data and the file layer of engine (error, container, durable_file) only:' \
  "$(grep_in '^data/' '#include "' | grep -vE '#include "(data/|engine/(error|container|durable_file)\.h")')"
report 'tools may include data, model and engine only:' "$(grep_in '^tools/' '#include "(kernels|tests)/')"
report 'CUDA headers belong into kernels/*.cu and *.cuh:' \
  "$(echo "$sources" | grep -vE '^kernels/.*\.cuh?$' | xargs -r grep -HnE '#include <(cuda|cublas)')"
report 'files over 600 lines (tables that a program wrote excepted):' \
  "$(echo "$sources" | grep -v '^data/unicode_tables.cpp$' | xargs -r wc -l | awk '$2 != "total" && $1 > 600')"
if command -v clang-format >/dev/null 2>&1; then
  report 'not formatted (clang-format -i FILE):' \
    "$(echo "$sources" | grep -v '^data/unicode_tables.cpp$' | xargs -r clang-format --dry-run 2>&1 | grep 'warning:' | cut -d: -f1 | sort | uniq -c)"
else
  echo 'check: no clang-format here, the format was not checked' >&2
fi
[ "$failed" = 0 ] && echo 'check: all rules hold'
exit "$failed"
