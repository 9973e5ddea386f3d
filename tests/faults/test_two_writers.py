"""Several who write one name at once: a server, and two processes beside it that open the same
library as a second and a third server would."""

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from steersman.vectors.file.format import read_vector
from tests.faults.conftest import Said
from tests.support.faults.deployment import VECTORS, Deployment
from tests.support.faults.sound import error_of, listed, steered
from tests.support.http.client import Client

ROUNDS = 20
LATER_S = 0.08
REPLICA = """
import json, sys, time
from pathlib import Path
from steersman.vectors.errors import SteersmanError
from steersman.vectors.library.library import Library

library = Library(Path(sys.argv[1]))
for line in sys.stdin:
    call, name, given, at = json.loads(line)
    time.sleep(max(0.0, at - time.monotonic()))
    try:
        if call == "add":
            entry, _ = library.add(Path(given), name)
        elif call == "swap":
            entry = library.update(name, digest=given)
        elif call == "delete":
            entry = library.resolve(name)
            library.delete(name)
        else:
            entry = library.resolve(name)
        print(json.dumps(["done", entry.digest]), flush=True)
    except SteersmanError as error:
        print(json.dumps([error.code, None]), flush=True)
"""


class Replica:
    """A process with the library open."""

    def __init__(self, library: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", REPLICA, str(library)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, call: str, name: str, given: str = "", at: float = 0.0) -> None:
        """Have it do something, at a time of the monotonic clock that all processes share."""
        print(json.dumps([call, name, given, at]), file=self._process.stdin, flush=True)

    def answer(self) -> tuple[str, str | None]:
        """(done or an error's code, the digest)."""
        assert self._process.stdout is not None
        code, digest = json.loads(self._process.stdout.readline())
        return code, digest

    def ask(self, call: str, name: str, given: str = "") -> tuple[str, str | None]:
        self.tell(call, name, given)
        return self.answer()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def replicas(deployment: Deployment) -> Iterator[list[Replica]]:
    deployment.up()
    made = [Replica(deployment.library) for _ in range(2)]
    yield made
    for replica in made:
        replica.close()


@pytest.fixture(scope="module")
def files(
    make_vector: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """One vector for the server, one for each replica."""
    folder = tmp_path_factory.mktemp("files")
    for n in range(3):
        (folder / f"{n}.safetensors").write_bytes(make_vector(300 + n))
    return [folder / f"{n}.safetensors" for n in range(3)]


def at_once(
    replicas: list[Replica], calls: list[tuple[str, str, str]], http: Callable[[], Any]
) -> Any:
    """The replicas' `calls` and the server's, at one moment; what the server answered. It has a
    longer way to the library, of some hundredths of a second: so the others wait, mostly less."""
    at = time.monotonic() + 0.05
    for replica, call in zip(replicas, calls, strict=True):
        replica.tell(*call, at=at + LATER_S * random.random() ** 3)
    time.sleep(max(0.0, at - time.monotonic()))
    return http()


def test_one_wins(client: Client, replicas: list[Replica], files: list[Path], say: Said) -> None:
    """Each with content of its own under one name: one has it, the others are told so."""
    digests = [read_vector(file).digest for file in files]
    won = [0, 0, 0]
    for n in range(ROUNDS):
        name = f"race{n}"
        answer = at_once(
            replicas,
            [("add", name, str(file)) for file in files[1:]],
            partial(client.upload, files[0].read_bytes(), name),
        )
        codes = ["done" if answer.status_code == 201 else error_of(answer, 409)["code"]]
        codes += [replica.answer()[0] for replica in replicas]
        assert sorted(codes) == ["done", "vector_exists", "vector_exists"]
        winner = codes.index("done")
        won[winner] += 1
        # All of them see it, on their next call.
        assert listed(client)[name] == digests[winner]
        for replica in replicas:
            assert replica.ask("resolve", name) == ("done", digests[winner])
        loser = client.upload(files[(winner + 1) % 3].read_bytes(), name)
    say(f"{ROUNDS} races for one name; won by the server and the two others: {won}")
    say(f"the loser reads: 409 {error_of(loser, 409)['message']}")


def test_swaps_at_once(
    client: Client, replicas: list[Replica], files: list[Path], say: Said
) -> None:
    """All succeed, one after another; the name is at the last, and every version is there."""
    digests = [read_vector(file).digest for file in files]
    for n, file in enumerate(files):
        assert client.upload(file.read_bytes(), f"content{n}").status_code == 201
    assert client.upload(files[0].read_bytes(), "swapped").status_code == 201
    last = [0, 0, 0]
    for _ in range(ROUNDS):
        answer = at_once(
            replicas,
            [("swap", "swapped", digest) for digest in digests[1:]],
            lambda: client.http.patch(f"{VECTORS}/swapped", json={"digest": digests[0]}),
        )
        assert answer.status_code == 200, answer.text
        assert [replica.answer() for replica in replicas] == [("done", d) for d in digests[1:]]
        now = listed(client)["swapped"]
        last[digests.index(now)] += 1
        for replica in replicas:
            assert replica.ask("resolve", "swapped") == ("done", now)
    say(f"{ROUNDS} swaps of three at once; the last were {last}")
    assert steered(client, "swapped")["digest"] == now
    for digest in digests:
        pinned = f"swapped@{digest.removeprefix('sha256:')[:16]}"
        assert steered(client, pinned)["digest"] == digest


def test_deleted_here_while_it_is_swapped_there(
    client: Client, replicas: list[Replica], files: list[Path], say: Said
) -> None:
    digests = [read_vector(file).digest for file in files]
    ends: list[str] = []
    for _ in range(ROUNDS):
        assert client.upload(files[0].read_bytes(), "fleeting").status_code in (200, 201)
        answer = at_once(
            replicas,
            [("swap", "fleeting", digests[1]), ("swap", "fleeting", digests[2])],
            lambda: client.http.delete(f"{VECTORS}/fleeting"),
        )
        assert answer.status_code == 200, answer.text
        codes = [replica.answer()[0] for replica in replicas]
        assert set(codes) <= {"done", "vector_not_found"}
        assert "fleeting" not in listed(client)
        assert replicas[0].ask("resolve", "fleeting") == ("vector_not_found", None)
        ends += codes
    before = ends.count("done")
    say(f"swaps before the deletion: {before}, after it: {len(ends) - before}")


def test_another_servers_vector_steers_at_once(
    client: Client, replicas: list[Replica], files: list[Path], say: Said
) -> None:
    seen: list[float] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            if client.http.get(f"{VECTORS}/theirs").status_code == 200:
                seen.append(time.monotonic())
                return

    looking = threading.Thread(target=look)
    looking.start()
    try:
        assert replicas[0].ask("add", "theirs", str(files[1]))[0] == "done"
        added = time.monotonic()
        looking.join(60)
    finally:
        stop.set()
    say(f"seen {max(0.0, seen[0] - added):.3f} s after the other had added it")
    assert steered(client, "theirs")["digest"] == read_vector(files[1]).digest
    assert replicas[1].ask("delete", "theirs")[0] == "done"
    answer = client.chat(steering={"vectors": {"theirs": 1.0}})
    assert error_of(answer, 400)["code"] == "vector_not_found"
