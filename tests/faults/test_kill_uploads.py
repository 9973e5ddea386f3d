"""kill -9 at many moments of uploads, swaps and deletions: the routes and the library as they are
served, under uvicorn, without the engine, which would take a minute a kill."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.servers import free_port
from steersman.vectors.file.format import read_vector
from steersman.vectors.library.library import Library
from tests.faults.conftest import Said
from tests.support.faults.deployment import until
from tests.support.faults.sound import listed, rests
from tests.support.faults.writer import Writer
from tests.support.http.client import Client
from tests.support.server.make import HIDDEN, VECTORS
from tests.support.vectors.make import vector_file

KILLS = 20
SERVERS = """
import os, sys
from pathlib import Path
import uvicorn
from fastapi import FastAPI
from steersman.server import error_response
from steersman.server.library.routes import build_router
from tests.support.server.make import steersman

for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(2, 1)  # The audit goes there.
        app = FastAPI()
        error_response.install(app)
        app.include_router(build_router())
        app.state.steersman = steersman(Path(sys.argv[1]))
        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
        os._exit(1)
    print(child, flush=True)
    os.waitpid(child, 0)
"""
"""A server for each line that it reads, one at a time; it prints their process ids."""


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """What starts servers, and the address at which they listen."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVERS, str(tmp_path / "library"), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process, f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


def test_killed_at_many_moments(
    nursery: tuple[subprocess.Popen[str], str], tmp_path: Path, say: Said
) -> None:
    servers, url = nursery
    files = [vector_file(n, hidden=HIDDEN, layers=(1, 2)) for n in range(12)]
    known = {read_vector(file).digest: file for file in files}
    must: dict[str, set[str | None]] = {}
    changes = unsure = 0
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        client = Client(http)
        for n in range(KILLS + 1):
            assert servers.stdin is not None
            assert servers.stdout is not None
            print("another", file=servers.stdin, flush=True)
            child = int(servers.stdout.readline())
            until(lambda: _answers(http), 60, every=0.05)
            found = listed(client)
            for name, states in must.items():
                assert found.get(name) in states, (n, name)
            assert VECTORS.keys() <= found.keys()
            if n == KILLS:
                os.kill(child, 9)
                break
            writers = [Writer(f"{n}-{own}", url, known) for own in range(4)]
            for writer in writers:
                writer.start()
            time.sleep(random.uniform(0.05, 0.6))
            os.kill(child, 9)
            for writer in writers:
                writer.join()
                assert writer.trouble == []
                must |= writer.may_be
                changes += writer.changes
                unsure += sum(len(states) > 1 for states in writer.may_be.values())
    left = rests(tmp_path / "library")
    say(f"{KILLS} kills in {changes} changes, {unsure} unanswered; half-written files: {len(left)}")
    assert unsure > 0
    library = Library(tmp_path / "library")
    assert library.problems == {}
    library.collect(older_than_s=-1)
    assert rests(tmp_path / "library") == []


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/v1/steering/vectors").is_success
    except httpx.TransportError:
        return False
