"""The library's disk is full: a file system of 8 MiB in memory, filled to its last byte."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Said
from tests.support.faults import extraction
from tests.support.faults.deployment import VECTORS, Deployment
from tests.support.faults.sound import error_of, listed, rests, steered
from tests.support.http.client import Client


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own; needs root."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a file system of 8 MiB takes root")
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"root may mount nothing here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def full(model: Path, disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment whose library is on that disk."""
    made = Deployment(model, tmp_path_factory.mktemp("full"), disk / "library")
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def hand(full: Deployment) -> Iterator[Client]:
    with full.client() as client:
        yield client


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """No byte is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while free := shutil.disk_usage(disk).free:
            file.write(b"\0" * min(free, 1 << 16))
    try:
        yield
    finally:
        ballast.unlink()


def made(client: Client) -> dict[str, Any]:
    """The end of a small extraction."""
    return extraction.end(client, extraction.begin(client, "made", 8))


def test_changes_are_refused_and_nothing_is_changed(
    full: Deployment, hand: Client, disk: Path, make_vector: Callable[..., bytes], say: Said
) -> None:
    for n in range(3):
        assert hand.upload(make_vector(400 + n), f"v{n}").status_code == 201
    before = listed(hand)
    plain = hand.http.get(f"{VECTORS}/v0").json()
    with filled(disk):
        answers = {
            "upload": hand.upload(make_vector(410), "new"),
            "content that is there, another name": hand.upload(make_vector(400), "new"),
            "PATCH description": hand.http.patch(f"{VECTORS}/v0", json={"description": "new"}),
            "PATCH coefficient": hand.http.patch(f"{VECTORS}/v0", json={"coefficient": 0.5}),
            "PATCH digest": hand.http.patch(f"{VECTORS}/v0", json={"digest": before["v1"]}),
            "extract": hand.http.post(f"{VECTORS}/extract", json=extraction.request("made", 8)),
        }
        for what, answer in answers.items():
            error = error_of(answer, answer.status_code)
            say(f"{what}: {answer.status_code} {error['code']}: {error['message']}")
        for what, answer in answers.items():
            assert answer.status_code == 507, what
            assert answer.json()["error"]["code"] == "library_full", what
            assert str(disk) not in answer.text
        # Readers notice nothing.
        assert listed(hand) == before
        assert hand.http.get(f"{VECTORS}/v0").json() == plain
        assert steered(hand, "v0")["steered_tokens"] == 4
        assert steered(hand, "v1")["digest"] == before["v1"]
        assert hand.http.get(extraction.JOBS).json()["data"] == []
        assert rests(full.library) == []
        # What was asked is not half there, and its name is not taken.
        assert hand.http.get(f"{VECTORS}/new").status_code == 404
        # Deleting needs no space.
        assert hand.http.delete(f"{VECTORS}/v2").status_code == 200
        assert hand.http.get("/health").status_code == 200
        ready = hand.http.get("/ready")
        say(f"/ready meanwhile: {ready.status_code} {ready.text}")
    log = [line for line in full.log.splitlines() if "No space left" in line]
    assert log
    say(f"log: {log[0]}")


def test_there_is_space_again(
    full: Deployment, hand: Client, make_vector: Callable[..., bytes]
) -> None:
    """Without a restart."""
    starts = full.starts
    assert hand.upload(make_vector(410), "new").status_code == 201
    assert hand.http.patch(f"{VECTORS}/v0", json={"coefficient": 0.5}).status_code == 200
    assert steered(hand, "new")["steered_tokens"] == 4
    assert made(hand)["status"] == "succeeded"
    assert hand.http.delete(f"{VECTORS}/made").status_code == 200
    assert full.starts == starts


def test_it_fills_while_a_job_runs(full: Deployment, hand: Client, disk: Path, say: Said) -> None:
    """The job can keep neither its vector nor its state: while the disk is full it is told as
    running for up to a minute, then as lost. The next job has its turn."""
    # Many texts: it must still run when the disk has been filled.
    job = extraction.begin(hand, "made", layers=[10, 14])
    extraction.is_at(hand, job, 5)
    with filled(disk):
        told = extraction.end(hand, job)
        say(f"while it is full: {told['status']}, {told['error']}")
        assert told["status"] == "failed"
        assert told["error"]["code"] in ("library_full", "job_lost")
        assert hand.http.get(f"{VECTORS}/made").status_code == 404
    assert extraction.end(hand, job)["status"] == "failed"
    assert made(hand)["status"] == "succeeded"
    assert rests(full.library) == []


def test_started_on_a_full_disk(full: Deployment, disk: Path, say: Said) -> None:
    """It serves what is there."""
    full.stop()
    with filled(disk):
        full.start()
        with full.client() as client:
            assert steered(client, "v1")["steered_tokens"] == 4
            assert error_of(client.upload(b"", "new"), 400)
