"""The clock jumps by hours, forwards and backwards, while the server runs.

libfaketime moves the time of day of all of the server's processes; the monotonic clock runs on, as
it does when NTP or an administrator sets a clock. What it cannot move are the times of files, which
the kernel writes: for those the files are made older instead, which is the same to a reader.
"""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steersman.vectors.library.library import Library
from tests.faults.conftest import Said
from tests.support.faults import extraction
from tests.support.faults.deployment import VECTORS, Deployment, until
from tests.support.faults.sound import error_of, listed, steered
from tests.support.http.client import Client, completion_body

HOURS = 3
INSTALLED = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
FREE, LIMITED = "a key without limits", "a key with limits"
KEYS = """
keys:
  - name: free
    sha256: {}
    scopes: [infer, "vectors:read", "vectors:write", admin]
  - name: limited
    sha256: {}
    scopes: ["vectors:read"]
    requests_per_minute: 6
...
"""


@pytest.fixture(scope="module")
def faketime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, the system's or out of Debian's package."""
    if INSTALLED.exists():
        return INSTALLED
    folder = tmp_path_factory.mktemp("faketime")
    if shutil.which("apt-get") is None:
        pytest.skip("libfaketime is not installed, and there is no apt-get to fetch it")
    got = subprocess.run(["apt-get", "download", "libfaketime"], cwd=folder, capture_output=True)
    if got.returncode:
        pytest.skip(f"libfaketime is not installed, and not to be had: {got.stderr[-200:]!r}")
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg", "-x", package.name, "."], cwd=folder, check=True)
    (found,) = folder.rglob("libfaketime.so.1")
    return found


class Clock:
    """The deployment's time of day."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set(0)

    def set(self, hours: int) -> None:
        """So far from the true time; every process has noticed when this returns."""
        new = self.path.with_suffix(".new")
        new.write_text(f"{hours:+d}h")
        os.replace(new, self.path)
        time.sleep(2)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock") / "offset")


@pytest.fixture(scope="module")
def timed(
    model: Path, faketime: Path, clock: Clock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A deployment that goes by that clock."""
    folder = tmp_path_factory.mktemp("timed")
    environment = {
        "LD_PRELOAD": str(faketime),
        "FAKETIME_TIMESTAMP_FILE": str(clock.path),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    keys = folder / "keys.yaml"
    keys.write_text(KEYS.format(*(hashlib.sha256(k.encode()).hexdigest() for k in (FREE, LIMITED))))
    options = ["--api-keys-file", str(keys)]
    made = Deployment(model, folder, folder / "library", environment, options, FREE)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def hand(timed: Deployment, clock: Clock) -> Iterator[Client]:
    """To it, at the true time."""
    clock.set(0)
    with timed.client() as client:
        yield client


def test_the_clock_is_moved(hand: Client, clock: Clock, make_vector: Callable[..., bytes]) -> None:
    """What the others rest on: the server goes by that clock."""
    for hours in (HOURS, -HOURS):
        clock.set(hours)
        made = hand.upload(make_vector(500 + hours), f"at{hours}").json()["created_at"]
        assert abs(made - (time.time() + 3600 * hours)) < 600


@pytest.mark.parametrize("hours", [HOURS, -HOURS], ids=["forwards", "backwards"])
def test_an_extraction_goes_on(hand: Client, clock: Clock, hours: int, say: Said) -> None:
    """It is not told as lost, its progress is told, and so is its end."""
    name = f"extracted{hours}"
    job = extraction.begin(hand, name, 100)
    extraction.is_at(hand, job, 5)
    clock.set(hours)
    seen: list[tuple[str, int]] = []

    def ended() -> bool:
        now = extraction.look(hand, job)
        seen.append((now["status"], now["progress"]["done"]))
        return now["status"] not in ("queued", "running")

    until(ended, 300, lambda: f"{seen}")
    assert seen[-1] == ("succeeded", 200), seen[-1]
    # More than the state before the jump and the last one.
    assert len({done for _, done in seen}) > 2, seen
    assert name in listed(hand)
    end = extraction.look(hand, job)
    say(f"started_at, ended_at: {end['started_at']:.0f}, {end['ended_at']:.0f}; {end['progress']}")


@pytest.mark.parametrize("hours", [HOURS, -HOURS], ids=["forwards", "backwards"])
def test_a_stream_goes_on(
    hand: Client, clock: Clock, hours: int, make_vector: Callable[..., bytes]
) -> None:
    name = f"streams{hours}"
    assert hand.upload(make_vector(510 + hours), name).status_code == 201
    body = completion_body(max_tokens=80, ignore_eos=True, steering={"vectors": {name: 1.0}})
    whole = hand.http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    chunks = []
    with hand.http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        lines = (line for line in answer.iter_lines() if line)
        for line in lines:
            chunks.append(line)
            if len(chunks) == 5:
                clock.set(hours)
    assert chunks.pop() == "data: [DONE]"
    assert "".join(_text(chunk) for chunk in chunks) == whole
    assert hand.http.get("/health").status_code == 200


def _text(line: str) -> str:
    choices = json.loads(line.removeprefix("data: "))["choices"]
    return "".join(choice["text"] for choice in choices)


def test_limits_of_a_key_go_by_another_clock(timed: Deployment, clock: Clock, say: Said) -> None:
    """Neither does a jump lift them nor lock a key out."""
    clock.set(0)
    with timed.client(key=LIMITED) as limited:
        while (answer := limited.http.get(VECTORS)).status_code == 200:
            pass
        for hours in (HOURS, -HOURS):
            assert error_of(answer, 429)["code"] == "rate_limit_exceeded"
            assert 1 <= int(answer.headers["Retry-After"]) <= 10
            clock.set(hours)
            until(lambda: limited.http.get(VECTORS).status_code == 200, 30, every=3)
            while (answer := limited.http.get(VECTORS)).status_code == 200:
                pass
        say(f"Retry-After: {answer.headers['Retry-After']}; {answer.json()['error']['message']}")


def test_files_that_seem_old(
    timed: Deployment, hand: Client, make_vector: Callable[..., bytes], say: Said
) -> None:
    """After a jump forwards all content seems to have lain about for hours, and a server that
    starts collects what no name stands for: what a deleted vector's requests may still need."""
    assert hand.upload(make_vector(520), "named").status_code == 201
    assert hand.http.patch(f"{VECTORS}/named", json={"coefficient": 0.5}).status_code == 200
    file = make_vector(521)
    assert hand.upload(file, "deleted").status_code == 201
    body = completion_body(max_tokens=60, ignore_eos=True, steering={"vectors": {"deleted": 1.0}})
    whole = hand.http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    chunks = []
    with hand.http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        lines = (line for line in answer.iter_lines() if line)
        chunks.append(next(lines))
        assert hand.http.delete(f"{VECTORS}/deleted").status_code == 200
        for path in timed.library.rglob("*.*"):
            old = path.stat().st_mtime - 3600 * HOURS
            os.utime(path, (old, old))
        before = {path.name for path in (timed.library / "objects").iterdir()}
        another = Library(timed.library)  # As a server opens it when it starts.
        gone = before - {path.name for path in (timed.library / "objects").iterdir()}
        chunks += lines
    assert chunks.pop() == "data: [DONE]"
    assert "".join(_text(chunk) for chunk in chunks) == whole
    say(f"{len(gone)} of {len(before)} contents were collected")
    # Every version of every name is there; what was deleted can be uploaded again.
    assert len(another.resolve("named").versions) == 2
    digests = another.resolve("named").versions
    for digest in digests:
        assert steered(hand, f"named@{digest.removeprefix('sha256:')[:16]}")["digest"] == digest
    assert listed(hand)
    assert hand.upload(file, "deleted").status_code == 201
    assert steered(hand, "deleted")["steered_tokens"] == 4
