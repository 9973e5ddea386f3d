"""The library's disk hangs: a file system that is frozen, whose writes wait until it is thawed, as
they do on a network file system whose server has gone away."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.conftest import Said
from tests.support.faults import extraction
from tests.support.faults.deployment import VECTORS, Deployment, alive, until
from tests.support.faults.sound import listed, rests, steered
from tests.support.http.client import Client, chat_body

TIMEOUT_S = 15


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own; needs root."""
    folder = tmp_path_factory.mktemp("hung")
    image, disk = folder / "image", folder / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or not all(map(shutil.which, ("mkfs.ext4", "mount", "fsfreeze"))):
        pytest.skip("freezing a file system takes root, mkfs.ext4, mount and fsfreeze")
    with image.open("wb") as file:
        file.truncate(1 << 28)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    mounted = subprocess.run(
        ["mount", "-o", "loop", str(image), str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"root may mount no image here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(scope="module")
def server(
    model: Path, disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A deployment whose library is on that disk."""
    options = ["--shutdown-timeout", str(TIMEOUT_S)]
    made = Deployment(model, tmp_path_factory.mktemp("server"), disk / "library", options=options)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def hand(server: Deployment) -> Iterator[Client]:
    with server.client() as client:
        yield client


@contextlib.contextmanager
def frozen(disk: Path) -> Iterator[None]:
    """Nothing can be written."""
    subprocess.run(["fsfreeze", "-f", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", str(disk)], check=True)


def test_changes_wait_and_everything_else_goes_on(
    server: Deployment, hand: Client, disk: Path, make_vector: Callable[..., bytes], say: Said
) -> None:
    assert hand.upload(make_vector(500), "there").status_code == 201
    before = listed(hand)
    job = extraction.begin(hand, "made", layers=[10])
    extraction.is_at(hand, job, 5)
    with ThreadPoolExecutor(20) as pool, contextlib.ExitStack() as ice:
        ice.enter_context(frozen(disk))
        # More than the event loop has threads of its own.
        uploads = [pool.submit(hand.upload, make_vector(501 + n), f"late-{n}") for n in range(12)]
        wanted = extraction.request("made-too", 8, layers=[10])
        second = pool.submit(hand.http.post, f"{VECTORS}/extract", json=wanted)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            assert hand.http.get("/health").status_code == 200
            assert steered(hand, "there")["steered_tokens"] == 4
            assert hand.chat(max_tokens=4).status_code == 200
            assert listed(hand) == before
        assert not any(one.done() for one in (*uploads, second))
        ready = hand.http.get("/ready")
        say(f"/ready meanwhile: {ready.status_code} {ready.text}")
        told = extraction.look(hand, job)
        say(f"the job meanwhile: {told['status']}, {told['progress']}")
        ice.close()
        assert [one.result().status_code for one in uploads] == [201] * 12
        assert second.result().status_code == 202
    assert extraction.end(hand, job)["status"] == "succeeded"
    assert extraction.end(hand, second.result().json()["id"])["status"] == "succeeded"
    assert len(listed(hand)) == len(before) + 14
    assert rests(server.library) == []


def test_stopped_meanwhile(server: Deployment, hand: Client, disk: Path, say: Said) -> None:
    """What does not need the disk ends as it should; the job is lost."""
    before = listed(hand)
    job = extraction.begin(hand, "lost", layers=[10, 14])
    extraction.is_at(hand, job, 5)
    body = {**chat_body("Count.", max_tokens=40, ignore_eos=True), "stream": True}
    engine = [p for p in server.processes() if p.name().startswith("VLLM::")]
    assert engine
    with frozen(disk):
        with hand.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert [line for line in rest if line][-1] == "data: [DONE]"
        # The engine goes in its time; the API server's threads cannot, before the disk answers.
        until(lambda: not any(map(alive, engine)), TIMEOUT_S + 60)
        say(f"exit status of the API server while the disk hangs: {server.process.poll()}")
    assert server.process.wait(60) == 0
    server.start()
    with server.client() as again:
        assert listed(again) == before
        ended = extraction.end(again, job)
        say(f"the job: {ended['status']}, {ended['error']}")
        assert ended["status"] == "failed"
        following = extraction.begin(again, "next", 8, layers=[10])
        assert extraction.end(again, following)["status"] == "succeeded"
    assert rests(server.library) == []
