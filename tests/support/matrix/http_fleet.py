"""Servers of several processes, and doors: connections to one API server process each."""

import shlex
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.servers import Server, running, steersman

OPTIONS = shlex.split(
    "--served-model-name smollm2 --max-model-len 1024 --block-size 32 --max-num-seqs 64 "
    "--bank-rows 16 --kv-cache-memory-bytes 134217728 --max-relative-dose 50 "
    "--enable-prompt-tokens-details"
)
KEPT_ALIVE = {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "600"}
"""vLLM closes idle connections after 5 s; ours stand for the processes that hold them."""


class Door:
    """One connection to the server, which one API server process holds (`pid`) to the end.

    One request at a time. Raises AssertionError if the connection has become another.
    """

    def __init__(self, server: Server, rank: int | None = None) -> None:
        """`rank` names the data parallel replica that is to answer; None leaves it to vLLM."""
        self.http = httpx.Client(
            base_url=server.url,
            timeout=300,
            trust_env=False,
            limits=httpx.Limits(max_connections=1, keepalive_expiry=None),
            headers={} if rank is None else {"X-data-parallel-rank": str(rank)},
        )
        self.rank = rank
        self._port: int | None = None
        self.get("/health")
        self.pid = _holder(server, self._port or 0)

    def get(self, path: str) -> httpx.Response:
        return self._same(self.http.get(path))

    def post(self, path: str, **what: Any) -> httpx.Response:
        return self._same(self.http.post(path, **what))

    def patch(self, path: str, **what: Any) -> httpx.Response:
        return self._same(self.http.patch(path, **what))

    def delete(self, path: str) -> httpx.Response:
        return self._same(self.http.delete(path))

    @contextmanager
    def stream(self, path: str, body: dict[str, Any]) -> Iterator[Iterator[str]]:
        """The data of the stream's events, to be read to the end."""
        with self.http.stream("POST", path, json={**body, "stream": True}) as answer:
            self._same(answer)
            assert answer.status_code == 200, answer.read()
            lines = (line.removeprefix("data: ") for line in answer.iter_lines())
            yield (line for line in lines if line.startswith("{"))

    def upload(self, name: str, content: bytes) -> httpx.Response:
        files = {"file": ("vector.safetensors", content)}
        return self.post("/v1/steering/vectors", data={"name": name}, files=files)

    def _same(self, response: httpx.Response) -> httpx.Response:
        port = response.extensions["network_stream"].get_extra_info("client_addr")[1]
        assert self._port in (None, port), "the connection was replaced: who answers is not known"
        self._port = port
        return response


@dataclass
class Fleet:
    """A running server and doors to each of its API server processes and replicas."""

    server: Server
    doors: dict[tuple[int, int | None], list[Door]] = field(default_factory=dict)
    """By (process, replica), as many as were asked for."""

    @property
    def each(self) -> list[Door]:
        """One door for each API server process and replica."""
        return [doors[0] for doors in self.doors.values()]

    @property
    def all(self) -> list[Door]:
        return [door for doors in self.doors.values() for door in doors]

    def metrics(self) -> dict[str, float]:
        """The newest scrape: sums over labels, and each labelled value under its full name."""
        values: dict[str, float] = defaultdict(float)
        for line in self.each[0].get("/metrics").text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name] += float(value)
                if "{" in name:
                    values[name.partition("{")[0]] += float(value)
        return dict(values)

    def settled(self, name: str, value: float) -> bool:
        """Whether a metric takes this value within 20 s."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.metrics().get(name) == value:
                return True
            time.sleep(0.2)
        return False


@contextmanager
def fleet(
    model: Path,
    folder: Path,
    options: Sequence[str] = (),
    *,
    processes: int = 1,
    replicas: int = 1,
    doors: int = 1,
    environment: dict[str, str] | None = None,
) -> Iterator[Fleet]:
    """A server with a home and a library of its own in `folder`, and `doors` doors to each of its
    `processes` API servers and each of its `replicas`. Asserts that there are so many processes."""
    command = steersman(str(model), [*OPTIONS, *options, "--library", str(folder / "library")])
    home = {"STEERSMAN_HOME": str(folder), **KEPT_ALIVE, **(environment or {})}
    with running("fleet", command, home, folder / "log") as server:
        found = Fleet(server)
        ranks = [None] if replicas == 1 else list(range(replicas))
        for rank in ranks:
            _open_doors(found, server, rank, processes, doors)
        try:
            yield found
        finally:
            for door in found.all:
                door.http.close()


def _open_doors(
    found: Fleet, server: Server, rank: int | None, processes: int, wanted: int
) -> None:
    """The kernel chooses who accepts a connection: open some until every process has enough."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        mine = {key: doors for key, doors in found.doors.items() if key[1] == rank}
        if len(mine) == processes and all(len(doors) == wanted for doors in mine.values()):
            return
        door = Door(server, rank)
        doors = found.doors.setdefault((door.pid, rank), [])
        if len(doors) < wanted:
            doors.append(door)
        else:
            door.http.close()
    raise AssertionError(f"{processes} API servers were asked for, doors: {list(found.doors)}")


def _holder(server: Server, port: int) -> int:
    """The process that holds the other end of the connection from our `port`."""
    leader = psutil.Process(server.pid)
    here = int(server.url.rpartition(":")[2])
    for process in (leader, *leader.children(recursive=True)):
        for end in process.net_connections("tcp"):
            if end.raddr and end.laddr.port == here and end.raddr.port == port:
                return int(process.pid)
    raise AssertionError("nobody holds the connection")
