"""One real server of the demo model, shared by all HTTP tests."""

import secrets
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from bench.servers import Server, running, steersman
from steersman.steering.plan.settings import default_home
from steersman.vectors.demo.model import prepare_model
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint
from tests.support.http.client import Client
from tests.support.install import hostile_folder

HIDDEN = 576
NORM = 60.0
"""Norm of the tests' random vectors: about a third of the stream's at the middle layers."""


@pytest.fixture(scope="package")
def model() -> Path:
    return prepare_model(default_home(), lambda line: print(line, file=sys.stderr))


@pytest.fixture(scope="package")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    options = shlex.split(
        "--served-model-name smollm2 --max-model-len 2048 --block-size 32 --bank-rows 64 "
        "--max-waiting 4 --kv-cache-memory-bytes 1073741824 --max-upload-bytes 1000000 "
        "--max-relative-dose 5 --enable-auto-tool-choice --tool-call-parser hermes "
        "--enable-prompt-tokens-details --allow-activations"
    )
    command = steersman(str(model), [*options, "--library", str(folder / "library")])
    environment = {"STEERSMAN_HOME": str(folder)}
    # Python looks there first: `python -m` puts the working folder before all others.
    cwd = hostile_folder(folder / "cwd")
    with running("steersman", command, environment, folder / "log", cwd) as started:
        yield started


@pytest.fixture(scope="package")
def client(server: Server) -> Iterator[Client]:
    with httpx.Client(base_url=server.url, timeout=120) as http:
        yield Client(http)


@pytest.fixture(scope="package")
def make_vector() -> Callable[..., bytes]:
    """A file of a random vector; the same seed gives the same bytes."""

    def make(seed: int = 0, *, layers: tuple[int, ...] = (10, 14), **fields: Any) -> bytes:
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for layer in layers:
            v = torch.randn(fields.pop("hidden", HIDDEN), generator=generator)
            tensors[HookPoint("resid_post", layer)] = v * (NORM / v.norm())
        return write_vector(SteeringVector(tensors, **fields))

    return make


@pytest.fixture(scope="package")
def rnd(client: Client, make_vector: Callable[..., bytes]) -> str:
    """A vector that is there all the time."""
    assert client.upload(make_vector(1), "rnd").status_code == 201
    return "rnd"


@pytest.fixture
def own(client: Client, make_vector: Callable[..., bytes]) -> Iterator[str]:
    """A vector of this test's own."""
    name = f"own-{secrets.token_hex(4)}"
    assert client.upload(make_vector(secrets.randbits(30)), name).status_code == 201
    yield name
    client.http.delete(f"/v1/steering/vectors/{name}")
