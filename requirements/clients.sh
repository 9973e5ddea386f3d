#!/bin/sh
# clients.sh VENV: puts into VENV/clients what `make clients` needs and nothing else does: other people's clients.
#   VENV/clients/bin             a Python environment with requirements/clients.txt
#   VENV/clients/node            node_modules by tests/clients/node/package-lock.json
# Done once; the next call only looks whether the pins are still these.
set -eu
venv=$(cd "${1:?clients.sh VENV}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
node=$here/../tests/clients/node
clients=$venv/clients

pins=$(cat "$0" "$here/clients.txt" "$node/package.json" "$node/package-lock.json" | cksum)
if [ "$(cat "$clients/.ready" 2>/dev/null)" = "$pins" ]; then
    exit 0
fi
rm -rf "$clients"
"$venv/bin/python" -m venv "$clients"
"$clients/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/clients.txt"
mkdir -p "$clients/node"
cp "$node/package.json" "$node/package-lock.json" "$clients/node"
(cd "$clients/node" && PATH=$venv/tools/bin:$PATH npm ci --ignore-scripts --no-audit --no-fund --loglevel error)
printf '%s' "$pins" >"$clients/.ready"
