"""locust, in an environment of its own: it replaces the standard library's sockets when it starts,
and brings twenty packages that nothing else here needs.

k6 was looked at first. Its HTTP client hands over a stream when it has ended, and the only time it
tells from before that is that of the first byte; an unsteered stream's is that of its headers,
which vLLM sends before there is a token.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import say
from steersman.vectors.demo.model import default_home

PINS = Path(__file__).with_name("locust.txt")
SCRIPT = Path(__file__).parent / "scripts" / "arrivals.py"
PATIENCE_S = 600.0
"""For the last answer, from the last arrival on."""
USERS = 400
"""Requests that may be under way at once; an arrival that finds none free is late, and counted."""


@dataclass(frozen=True)
class Arrival:
    """A request, sent `at` seconds after the start whatever became of the others."""

    at: float
    phase: str
    key: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Recorded:
    """What locust recorded: a record of every request, and its counts of all and of failed ones."""

    began: float
    """Wall-clock time that every `at` counts from."""
    records: list[dict[str, Any]]
    requests: int
    failures: int


def locust() -> Path:
    """Its command, installed first if need be."""
    pins = PINS.read_bytes()
    home = default_home() / "locust" / hashlib.sha256(pins).hexdigest()[:12]
    command = home / "bin" / "locust"
    if not (home / "complete").exists():
        say(f"installing locust into {home}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        install = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*install, "-r", str(PINS)], check=True, stdout=sys.stderr)
        (home / "complete").touch()
    return command


def send(
    url: str,
    arrivals: Sequence[Arrival],
    keys: Mapping[str, str],
    scratch: Path,
    watch: Callable[[], object] = lambda: None,
) -> Recorded:
    """Send all `arrivals` to `url` and wait for the last answer, calling `watch` every second.

    `keys` are the secrets by the name that arrivals give. Raises RuntimeError if locust fails.
    """
    plan, out = scratch / "plan.jsonl", scratch / "records.jsonl"
    plan.write_text("".join(json.dumps(vars(arrival)) + "\n" for arrival in arrivals))
    out.unlink(missing_ok=True)
    environment = {
        **_without_ours(os.environ),
        "LOAD_PLAN": str(plan),
        "LOAD_RECORDS": str(out),
        "LOAD_KEYS": json.dumps(keys),
    }
    stats = scratch / "locust.json"
    command = [str(locust()), "-f", str(SCRIPT), "--headless", "--only-summary", "--host", url]
    command += ["--users", str(USERS), "--spawn-rate", str(USERS), "--exit-code-on-error", "0"]
    command += ["--json-file", str(stats.with_suffix(""))]
    deadline = time.monotonic() + arrivals[-1].at + PATIENCE_S
    with (scratch / "locust.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(1)
                watch()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=30)
    if process.returncode != 0:
        raise RuntimeError(f"locust ended with {process.returncode}: {_tail(log.name)}")
    began, *records = _lines(out)
    if len(records) != len(arrivals):
        raise RuntimeError(f"{len(records)} of {len(arrivals)} requests were recorded")
    posts = [row for row in json.loads(stats.read_text()) if row["method"] == "POST"]
    return Recorded(
        began["began"],
        records,
        sum(row["num_requests"] for row in posts),
        sum(row["num_failures"] for row in posts),
    )


def _without_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """locust's Python must not find this environment's packages."""
    return {k: v for k, v in environment.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as lines:
        for line in lines:
            yield json.loads(line)


def _tail(path: str) -> str:
    return "\n".join(Path(path).read_text(errors="replace").splitlines()[-20:])
