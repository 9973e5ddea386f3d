"""Files of the library that are spoiled: while the server is down, and under its eyes."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from steersman.vectors.file.format import read_tensors
from steersman.vectors.tensors import HookPoint
from tests.faults.conftest import Said
from tests.support.faults.deployment import VECTORS, Deployment
from tests.support.faults.sound import error_of, listed, steered
from tests.support.http.client import Client

STRONG = 2.0


@pytest.fixture(autouse=True)
def nothing_is_left(deployment: Deployment) -> Iterator[None]:
    """Of what a test has spoiled, in the library that others go on with."""
    before = _names(deployment)
    yield
    deployment.up()
    with deployment.client() as client:
        for name in _names(deployment) - before:
            assert client.http.delete(f"{VECTORS}/{name}").status_code == 200


def _names(deployment: Deployment) -> set[str]:
    return {path.stem for path in (deployment.library / "names").glob("*.json")}


def content(deployment: Deployment, digest: str) -> Path:
    """Where the library keeps it."""
    return deployment.library / "objects" / f"{digest.removeprefix('sha256:')}.safetensors"


def record(deployment: Deployment, name: str) -> Path:
    return deployment.library / "names" / f"{name}.json"


def flip(path: Path) -> None:
    """Flip the signs of every value: finite still, as long as before, and the other way round."""
    before = read_tensors(path, [HookPoint("resid_post", 10)])
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    for n in range(start + 3, len(data), 4):
        data[n] ^= 0x80
    _write_in_place(path, bytes(data))
    assert (
        read_tensors(path, before)[HookPoint("resid_post", 10)]
        == -before[HookPoint("resid_post", 10)]
    ).all()


def _write_in_place(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


def spoil(deployment: Deployment, name: str, digest: str) -> None:
    """As `name` says."""
    file = content(deployment, digest)
    if name == "flipped":
        flip(file)
    elif name == "cut":
        os.truncate(file, file.stat().st_size - 100)
    elif name == "emptied":
        os.truncate(file, 0)
    elif name == "missing":
        file.unlink()
    elif name == "header":
        _write_in_place(file, b"\xff" * 64)
    elif name == "record":
        record(deployment, name).write_bytes(b"\x00garbage" * 10)
    elif name == "empty-record":
        record(deployment, name).write_bytes(b"")


SPOILED = ("flipped", "cut", "emptied", "missing", "header", "record", "empty-record")


def test_spoiled_while_the_server_is_down(
    deployment: Deployment, make_vector: Callable[..., bytes], say: Said
) -> None:
    deployment.up()
    files = {name: make_vector(200 + n) for n, name in enumerate((*SPOILED, "sound"))}
    with deployment.client() as client:
        for name, file in files.items():
            assert client.upload(file, name).status_code == 201
        digests = listed(client)
    deployment.kill()
    for name in SPOILED:
        spoil(deployment, name, digests[name])

    deployment.stop()
    deployment.start()
    with deployment.client() as client:
        answer = client.http.get(VECTORS, params={"limit": 1000})
        names = {vector["id"] for vector in answer.json()["data"]}
        # Whether values are sound is not looked at before they are used.
        assert names & {*SPOILED, "sound"} == {"flipped", "sound"}
        assert steered(client, "sound")["digest"] == digests["sound"]
        for name in SPOILED:
            refused = client.chat(max_tokens=2, steering={"vectors": {name: STRONG}})
            error = error_of(refused, 500 if name == "flipped" else 400)
            say(f"{name}: {refused.status_code} {error['code']}: {error['message']}")
        for name in SPOILED:
            if "record" not in name and name != "flipped":
                assert content(deployment, digests[name]).name in deployment.log, name
        for name in ("record", "empty-record"):
            assert f"{name}.json" in deployment.log
            error = error_of(client.upload(files[name], name), 409)
            say(f"uploading {name} again: {error['code']}: {error['message']}")
        for line in deployment.log.splitlines():
            if "skipping" in line:
                say(f"log: {line}")
        for name in SPOILED:
            assert client.http.delete(f"{VECTORS}/{name}").status_code == 200, name
            assert client.upload(files[name], name).status_code == 201, name
        assert listed(client) == digests
        for name in SPOILED:
            assert steered(client, name)["steered_tokens"] == 4


def test_healed_by_uploading_again(
    deployment: Deployment, client: Client, make_vector: Callable[..., bytes]
) -> None:
    """Without deleting: the same content under the same name."""
    for n, name in enumerate(("flipped", "cut", "emptied", "missing", "header")):
        file = make_vector(220 + n)
        digest = client.upload(file, f"again-{name}").json()["digest"]
        spoil(deployment, name, digest)
        assert client.upload(file, f"again-{name}").status_code == 200
        assert steered(client, f"again-{name}")["digest"] == digest
        assert client.http.delete(f"{VECTORS}/again-{name}").status_code == 200


def test_spoiled_under_the_servers_eyes(
    deployment: Deployment, client: Client, make_vector: Callable[..., bytes], say: Said
) -> None:
    """`cached`: its header is known, its values were never read. `resident`: its values are in the
    bank, from which it is driven out later."""
    digests = {}
    for n, name in enumerate(("cached", "resident")):
        digests[name] = client.upload(make_vector(240 + n), name).json()["digest"]
    request: dict[str, Any] = {"max_tokens": 12, "steering": {"vectors": {"resident": STRONG}}}
    right = client.chat_text(**request)
    assert right != client.chat_text(max_tokens=12)
    for digest in digests.values():
        flip(content(deployment, digest))

    refused = client.chat(max_tokens=2, steering={"vectors": {"cached": STRONG}})
    error = error_of(refused, refused.status_code)
    say(f"cached: {refused.status_code} {error['code']}: {error['message']}")
    assert refused.status_code in (400, 500)
    # What is in the bank is what was sound when it was read.
    assert client.chat_text(**request) == right
    # Two layers each of eight others: all 16 rows of the bank.
    for n in range(8):
        assert client.upload(make_vector(250 + n), f"other{n}").status_code == 201
        steered(client, f"other{n}")
        assert client.http.delete(f"{VECTORS}/other{n}").status_code == 200
    refused = client.chat(**request)
    error = error_of(refused, refused.status_code)
    say(f"resident, and driven out: {refused.status_code} {error['code']}: {error['message']}")
    assert refused.status_code in (400, 500)
    # Others are as they were.
    assert client.chat_text().startswith("The capital of France")

    for n, name in enumerate(("cached", "resident")):
        assert client.upload(make_vector(240 + n), name).status_code == 200
    assert client.chat_text(**request) == right
    for name in ("cut", "record"):
        digest = client.upload(make_vector(270), name).json()["digest"]
        steered(client, name)
        spoil(deployment, name, digest)
        error = error_of(client.chat(max_tokens=2, steering={"vectors": {name: 1.0}}), 400)
        say(f"{name}, in use so far: 400 {error['code']}: {error['message']}")
        assert name not in listed(client)
        assert client.http.delete(f"{VECTORS}/{name}").status_code == 200
    assert listed(client)
