#!/bin/sh
# Installs what the build needs and the machine lacks, with apt-get; says nothing where all is there.
set -eu
wanted="g++ make zlib1g-dev libutf8proc-dev libopencc-dev libopencc-data doctest-dev libcli11-dev libfmt-dev
  nlohmann-json3-dev libopenblas-openmp-dev libssl-dev libbz2-dev"
if ! command -v apt-get >/dev/null 2>&1; then
  echo "make deps: no apt-get here; these must be installed (Debian's names):" $wanted >&2
  exit 0
fi
missing=
for package in $wanted; do
  dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get install -y --no-install-recommends $missing >/dev/null 2>&1 || {
  $sudo apt-get update >/dev/null && $sudo apt-get install -y --no-install-recommends $missing >/dev/null; }
