#!/bin/sh
# build.sh VENV INTO: builds the page from these sources into the folder INTO. Needs VENV/tools (requirements/tools.sh):
# node, and the packages of package-lock.json. The sources are copied beside them, since vite looks there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=$(cd "${1:?build.sh VENV INTO}" && pwd)
mkdir -p "${2:?build.sh VENV INTO}"
into=$(cd "$2" && pwd)
packages=$venv/tools/playground
node=$venv/tools/bin/node

work=$(mktemp -d "$packages/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
cp -R "$here/src" "$here/public" "$here/tsconfig.json" "$here/vite.config.ts" "$here/package.json" "$work/"
cd "$work"
"$node" "$packages/node_modules/typescript/bin/tsc" --noEmit
"$node" "$packages/node_modules/vite/bin/vite.js" build --logLevel warn --outDir "$work/built" --emptyOutDir
# What is in the built files is other people's, too.
for package in preact @preact/signals @preact/signals-core uplot @fontsource-variable/inter; do
    printf '== %s\n\n' "$package"
    cat "$packages/node_modules/$package/LICENSE"
    printf '\n'
done >"$work/built/licences.txt"
rm -f "$into"/*
cp "$work/built"/* "$into/"
