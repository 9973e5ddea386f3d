"""A vector whose file cannot be read: a pipe in its place, whose opening waits for a writer as a
network file system does whose server has gone away. Who needs it waits, and nobody else."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from steersman.server.library.in_time import BUSY
from tests.faults.conftest import Said
from tests.support.faults.deployment import Deployment
from tests.support.faults.sound import steered

LOAD_TIMEOUT_S = 8
WAITING = 2 * BUSY


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("server")
    options = ["--load-timeout", str(LOAD_TIMEOUT_S)]
    made = Deployment(model, folder, folder / "library", options=options)
    made.start()
    yield made
    made.stop()


@contextlib.contextmanager
def hanging(file: Path) -> Iterator[None]:
    """Opening `file` waits."""
    kept = file.with_suffix(".kept")
    file.rename(kept)
    os.mkfifo(file)
    try:
        yield
    finally:
        # Whoever waits gets an empty file.
        with contextlib.suppress(OSError):
            os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
        kept.replace(file)


def test_only_who_needs_the_vector_waits(
    server: Deployment, make_vector: Callable[..., bytes], say: Said
) -> None:
    with server.client() as hand:
        assert hand.upload(make_vector(600), "there").status_code == 201
        assert hand.upload(make_vector(601), "cold").status_code == 201
        assert steered(hand, "there")["steered_tokens"] == 4
        digest = hand.http.get("/v1/steering/vectors/cold").json()["digest"]
        file = server.library / "objects" / f"{digest.removeprefix('sha256:')}.safetensors"

        def ask() -> tuple[int, str | None]:
            answer = hand.chat(max_tokens=4, steering={"vectors": {"cold": 0.2}})
            return answer.status_code, answer.json().get("error", {}).get("code")

        with ThreadPoolExecutor(WAITING) as pool, hanging(file):
            waiting = [pool.submit(ask) for _ in range(WAITING)]
            time.sleep(1)
            took, deadline = [], time.monotonic() + LOAD_TIMEOUT_S - 3
            while time.monotonic() < deadline:
                began = time.monotonic()
                assert hand.http.get("/health").status_code == 200
                assert steered(hand, "there")["steered_tokens"] == 4
                assert hand.chat(max_tokens=4).status_code == 200
                took.append(time.monotonic() - began)
            assert not any(one.done() for one in waiting)
            said = {one.result() for one in waiting}
            say(f"{len(took)} rounds beside {WAITING} that wait, the longest {max(took):.2f} s")
        assert said == {(503, "library_slow")}
        assert steered(hand, "cold")["steered_tokens"] == 4
