"""kill -9 of the API server while it streams an answer, while the body of an upload arrives, while
four clients change the library, and while it extracts a vector; then it is started again, with the
same command."""

import contextlib
import itertools
import json
import os
import random
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import torch

from steersman.vectors.file.format import SteeringVector, read_vector, write_vector
from steersman.vectors.library.disk import TEMP_PREFIX
from steersman.vectors.tensors import HookPoint
from tests.faults.conftest import Said
from tests.http.conftest import HIDDEN
from tests.support.faults import extraction
from tests.support.faults.deployment import VECTORS, Deployment, alive, shared_memory, until
from tests.support.faults.sound import listed, rests, steered
from tests.support.faults.writer import Writer
from tests.support.http.client import Client, completion_body

STEERING = {"vectors": {"kept": 1.0}}
BODY = completion_body(max_tokens=900, ignore_eos=True, stream=True, steering=STEERING)


@dataclass
class Killed:
    """What was going on when the server was killed, and what became of it."""

    before: dict[str, str]
    """The library, but for what the writers did."""
    stream: list[str]
    stream_error: httpx.TransportError
    upload: httpx.Request
    upload_said: bytes
    spooled: list[Path]
    """Temporary files that the server had open, one of them for the upload."""
    writers: list[Writer]
    jobs: list[str]
    processes: list[psutil.Process]
    shared_memory: set[Path]
    """What it had of that."""
    rests: list[Path]
    """Half-written files that it left."""
    restart_s: float


@pytest.fixture(scope="module")
def killed(deployment: Deployment, make_vector: Callable[..., bytes]) -> Iterator[Killed]:
    deployment.up()
    files = {read_vector(file).digest: file for file in (make_vector(100 + n) for n in range(12))}
    writers = [Writer(own, deployment.url, files) for own in range(4)]
    with deployment.client() as client, contextlib.ExitStack() as stack:
        assert client.upload(make_vector(1), "kept").status_code in (200, 201)
        before = listed(client)
        upload, half = _half_an_upload(client)
        connection = stack.enter_context(
            socket.create_connection(("127.0.0.1", deployment.port), timeout=60)
        )
        jobs = [extraction.begin(client, "extracted"), extraction.begin(client, "behind")]
        extraction.is_at(client, jobs[0], 5)
        for writer in writers:
            writer.start()
        answer = stack.enter_context(client.http.stream("POST", "/v1/completions", json=BODY))
        assert answer.status_code == 200
        lines = answer.iter_lines()
        stream = list(itertools.islice(lines, 8))
        connection.sendall(half)
        time.sleep(random.uniform(1, 2))  # For the server to have read it, and others to write.
        processes = deployment.processes()
        spooled = _open_in_tmp(processes[0])
        shared = {path for process in processes for path in shared_memory(process)}
        assert deployment.kill() == -9
        with pytest.raises(httpx.TransportError) as broken:
            stream.extend(lines)
        upload_said = b""
        with contextlib.suppress(ConnectionError):
            upload_said = connection.recv(4096)
    for writer in writers:
        writer.join()
    left = rests(deployment.library)
    _let_an_hour_pass(deployment)
    began = time.monotonic()
    deployment.start()
    yield Killed(
        before=before,
        stream=[line for line in stream if line],
        stream_error=broken.value,
        upload=upload,
        upload_said=upload_said,
        spooled=spooled,
        writers=writers,
        jobs=jobs,
        processes=processes,
        shared_memory=shared,
        rests=left,
        restart_s=time.monotonic() - began,
    )
    for process in filter(alive, processes):
        process.kill()


def _open_in_tmp(process: psutil.Process) -> list[Path]:
    """Files in the folder for temporary ones; of those without a name, what the kernel says."""
    found = []
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(descriptor.readlink())
    return [path for path in found if str(path.parent) == tempfile.gettempdir()]


def _let_an_hour_pass(deployment: Deployment) -> None:
    """For what is half-written in the library: what the kill has left, and one file more in each
    folder, since it may have left none."""
    for folder in ("jobs", "names", "objects"):
        (deployment.library / folder / f"{TEMP_PREFIX}0123456789abcdef").write_bytes(b"{")
    for rest in rests(deployment.library):
        os.utime(rest, (time.time() - 7200,) * 2)


def _half_an_upload(client: Client) -> tuple[httpx.Request, bytes]:
    """A request of 2 MB, more than is kept in memory; and most of it as it is sent."""
    steps = {HookPoint("resid_post", layer): torch.randn(32, HIDDEN) for layer in range(30)}
    file = write_vector(SteeringVector(steps))
    request = client.http.build_request(
        "POST", VECTORS, files={"file": ("v.safetensors", file)}, data={"name": "cut"}
    )
    head = "".join(f"{key}: {value}\r\n" for key, value in request.headers.items())
    return request, f"POST {VECTORS} HTTP/1.1\r\n{head}\r\n".encode() + request.read()[:1_500_000]


def test_no_process_outlives_it(killed: Killed, say: Said) -> None:
    """Its engine goes by itself, and gives its memory back."""
    until(
        lambda: not any(map(alive, killed.processes)),
        10,
        lambda: f"left: {[process for process in killed.processes if alive(process)]}",
    )
    say(f"all {len(killed.processes)} are gone; started again in {killed.restart_s:.0f} s")
    left = {path.name: path.stat().st_blocks >> 1 for path in killed.shared_memory if path.exists()}
    say(f"of {len(killed.shared_memory)} files in /dev/shm these are left, in KiB: {left}")


def test_a_stream_is_broken_not_ended(killed: Killed, say: Said) -> None:
    """The client can tell it from a whole answer: neither the mark nor a reason to finish."""
    say(f"{type(killed.stream_error).__name__}: {killed.stream_error}")
    assert isinstance(killed.stream_error, httpx.RemoteProtocolError)
    assert "data: [DONE]" not in killed.stream
    chunks = [json.loads(line.removeprefix("data: ")) for line in killed.stream]
    assert {choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]} == {None}


def test_nothing_is_lost(killed: Killed, client: Client, deployment: Deployment) -> None:
    assert killed.before.items() <= listed(client).items()
    assert steered(client, "kept")["steered_tokens"] == 4
    assert "skipping" not in deployment.log


def test_a_body_that_was_arriving(killed: Killed, client: Client, say: Said) -> None:
    """Is not there, nor is what came of it; sent again it is kept."""
    say(f"open in the folder for temporary files: {[str(path) for path in killed.spooled]}")
    assert killed.spooled
    assert killed.upload_said == b""
    assert "cut" not in listed(client)
    assert [path for path in killed.spooled if path.exists()] == []
    assert client.http.send(killed.upload).status_code == 201
    assert client.http.delete(f"{VECTORS}/cut").status_code == 200


def test_vectors_that_were_being_written(
    killed: Killed, client: Client, deployment: Deployment, say: Said
) -> None:
    """Each name is as its client was told last, or as it has asked since; all content is sound."""
    after = listed(client)
    for writer in killed.writers:
        assert writer.trouble == []
        for name, states in writer.may_be.items():
            assert after.get(name) in states, (name, states)
    changes = sum(writer.changes for writer in killed.writers)
    unsure = sum(len(may) > 1 for writer in killed.writers for may in writer.may_be.values())
    say(f"{changes} changes answered, {unsure} not; half-written files: {len(killed.rests)}")
    assert unsure


def test_an_extraction_is_told_as_lost(
    killed: Killed, client: Client, deployment: Deployment, say: Said
) -> None:
    for job in killed.jobs:
        told = extraction.end(client, job)
        assert (told["status"], told["error"]["code"]) == ("failed", "job_lost")
    say(f"{told['status']}: {told['error']}")
    assert "extracted" not in listed(client)
    # Under the same name it can be made now.
    told = extraction.end(client, extraction.begin(client, "extracted", 8))
    assert told["status"] == "succeeded", told
    assert "extracted" in listed(client)
    assert {path.suffix for path in (deployment.library / "jobs").glob("[!.]*")} == {".json"}


def test_half_written_files_are_gone(
    killed: Killed, client: Client, deployment: Deployment
) -> None:
    """They were an hour old when it was started again."""
    assert rests(deployment.library) == []
    assert listed(client)
