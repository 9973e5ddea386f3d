"""Two real servers with keys on one library, as two replicas are."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from bench.servers import Server, running, steersman
from steersman.server.auth.keyfile import LOOK_EVERY_S, hash_of
from tests.http.conftest import make_vector, model
from tests.support.http.client import Client

__all__ = ["make_vector", "model"]

KEYS: dict[str, dict[str, object]] = {
    "admin": {"scopes": ["admin"]},
    "infer": {"scopes": ["infer"]},
    "read": {"scopes": ["vectors:read"]},
    "write": {"scopes": ["vectors:write"]},
    "team": {
        "scopes": ["infer", "vectors:read", "vectors:write"],
        "vectors": ["team-*"],
        "max_relative_dose": 0.5,
        "max_vectors": 2,
        "max_jobs": 1,
        "max_extract_rows": 40,
    },
    "narrow": {"scopes": ["infer"], "max_concurrent_requests": 1},
    "seldom": {"scopes": ["infer"], "requests_per_minute": 3},
}
"""The key of each is its name behind "sk-"."""
OPERATORS = "sk-given-to-vllm"
"""By `--api-key`."""


@dataclass(frozen=True)
class Place:
    """Where the servers' files are."""

    folder: Path

    @property
    def library(self) -> Path:
        return self.folder / "library"

    @property
    def keys(self) -> Path:
        return self.folder / "keys.yaml"

    @property
    def audit(self) -> Path:
        return self.folder / "audit.jsonl"

    def write_keys(self, keys: dict[str, dict[str, object]]) -> None:
        """As an editor does: a new file over the old one."""
        entries = [{"name": n, "sha256": hash_of(f"sk-{n}"), **key} for n, key in keys.items()]
        new = self.keys.with_suffix(".new")
        new.write_text(yaml.safe_dump({"keys": entries}, explicit_end=True))
        os.replace(new, self.keys)


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("operate"))
    made.write_keys(KEYS)
    return made


@pytest.fixture(scope="package")
def servers(model: Path, place: Place) -> Iterator[tuple[Server, Server]]:
    """Both with everything that `tests/operate` needs, a core each."""
    options = [
        *("--served-model-name", "smollm2", "--max-model-len", "1024", "--block-size", "32"),
        *("--kv-cache-memory-bytes", str(2**29), "--library", str(place.library)),
        *("--api-keys-file", str(place.keys), "--api-key", OPERATORS),
        *("--audit-log", str(place.audit), "--max-upload-bytes", "1000000"),
        *("--max-body-bytes", "200000", "--body-timeout", "3", "--max-library-vectors", "40"),
        *("--shutdown-timeout", "45"),
    ]
    cores = sorted(os.sched_getaffinity(0))

    def start(n: int) -> Server:
        environment = {
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": str(cores[n % len(cores)]),
        }
        log = place.folder / f"log{n}"
        return stack.enter_context(
            running(f"steersman {n}", steersman(str(model), options), environment, log)
        )

    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        first, second = pool.map(start, range(2))
        yield first, second


As = Callable[[str], Client]


@pytest.fixture(scope="package")
def clients(servers: tuple[Server, Server]) -> Iterator[Callable[[int, str | None], Client]]:
    """`clients(n, name)` asks server `n` with the key of `name`."""
    with ExitStack() as stack:

        def ask(n: int, name: str | None) -> Client:
            headers = {} if name is None else {"Authorization": f"Bearer sk-{name}"}
            http = httpx.Client(base_url=servers[n].url, timeout=120, headers=headers)
            return Client(stack.enter_context(http))

        yield ask


@pytest.fixture(scope="package")
def key(clients: Callable[[int, str | None], Client]) -> As:
    """`key(name)` asks the first server with the key of `name`."""
    return lambda name: clients(0, name)


@pytest.fixture(scope="package")
def rnd(key: As, make_vector: Callable[..., bytes]) -> str:
    """A vector that not everybody may see."""
    assert key("admin").upload(make_vector(1), "rnd").status_code == 201
    return "rnd"


LOOKED = LOOK_EVERY_S + 0.3
"""Seconds until a new keys file holds."""
