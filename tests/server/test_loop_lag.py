"""No request of ours holds the event loop, whatever it costs: measured on the loop itself, with the
largest requests that a server takes, over real sockets."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
import uvicorn

from steersman.server import health
from steersman.server.metrics import METRICS
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint
from tests.support.server.extraction import HIDDEN, LAYERS
from tests.support.server.host import JOBS, VECTORS, Site
from tests.support.vectors.make import raw_file, tensor_entry

HELD_S = 0.2
"""Longest that one request may hold the loop, beyond what the machine does to a loop that has
nothing to do."""
TRIES = 4
"""Neighbours on the machine hold it, too: a request holds it if it does so every time."""
MANY = 400
"""Vectors in the library."""


class Lags:
    """Takes the place of the metric."""

    def __init__(self) -> None:
        self.worst = 0.0

    def observe(self, seconds: float) -> None:
        self.worst = max(self.worst, seconds)

    def during(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """The longest lag while `work` runs, and its result."""
        self.worst = 0.0
        made = work()
        # A lag is known when it is over.
        time.sleep(2 * health.LAG_EVERY_S)
        return self.worst, made


@pytest.fixture(scope="module")
def lags() -> Iterator[Lags]:
    made, real = Lags(), METRICS.loop_lag
    METRICS.loop_lag = made  # type: ignore[assignment]
    yield made
    METRICS.loop_lag = real


async def _well() -> None:
    """An engine that is alive."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("heartbeat")
    made = Site(folder / "library", None)
    made.app.include_router(health.router)
    made.app.state.engine_client = SimpleNamespace(check_health=_well)
    return made


@pytest.fixture(scope="module")
def url(site: Site, lags: Lags) -> Iterator[str]:
    """Where the site is served, with its heartbeat."""
    server = uvicorn.Server(uvicorn.Config(site.app, port=0, log_level="error", lifespan="off"))

    async def main() -> None:
        beating = asyncio.create_task(health.observe_loop_lag())
        await server.serve()
        beating.cancel()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=300) as client:
        yield client


def vector(seed: int, **fields: Any) -> bytes:
    row = torch.randn(LAYERS, HIDDEN, generator=torch.Generator().manual_seed(seed))
    return write_vector(
        SteeringVector({HookPoint("resid_post", n): row[n] for n in range(LAYERS)}, **fields)
    )


FULL = {f"k{n}": [n, {}] for n in range(3000)}
"""Nearly as much metadata as fits, and in many small parts."""


@pytest.fixture(scope="module")
def filled(site: Site) -> Site:
    """With many vectors, all with long metadata, and many jobs with many bad rows."""
    library = site.state.whole_library
    library.add(vector(0, method_settings=FULL), "full")
    record = json.loads((library.root / "names" / "full.json").read_text())
    for n in range(MANY):
        path = library.root / "names" / f"v{n}.json"
        path.write_text(json.dumps({**record, "name": f"v{n}", "description": "d" * 4096}))
    jobs = site.state.jobs.folder
    jobs.mkdir(exist_ok=True)
    bad = [{"row": n, "label": "positive", "reason": "r" * 100} for n in range(4000)]
    for n in range(20):
        job = {"id": f"job-{n}", "method": "caa", "name": "x", "status": "failed", "bad_rows": bad}
        (jobs / f"job-{n}.json").write_text(json.dumps(job))
    return site


def upload_of(data: bytes) -> dict[str, Any]:
    return {"files": {"file": ("v", data)}, "data": {"name": "full"}}


def mostly_metadata() -> bytes:
    """Refused once it has been parsed."""
    settings = {f"k{n}": n for n in range(40_000)}
    header = {"__metadata__": {"steersman": json.dumps({"method_settings": settings})}}
    return raw_file({**header, **tensor_entry(size=HIDDEN)}, b"\0" * 4 * HIDDEN)


def twice() -> bytes:
    """A header of many keys, the last of them twice."""
    keys = ",".join(f'"k{n}":1' for n in range(60_000))
    return raw_file(b"{" + keys.encode() + b',"k59999":1}')


def extraction(**fields: Any) -> dict[str, Any]:
    return {"content": json.dumps({"method": "mean_difference", "name": "made", **fields})}


def jsonl() -> dict[str, Any]:
    line = json.dumps({"positive": "a good text", "negative": "a bad text"}) + "\n"
    request = json.dumps({"method": "mean_difference", "name": "made"})
    return {"files": {"file": ("f", line.encode() * 400_000)}, "data": {"request": request}}


EXTRACT = f"{VECTORS}/extract"
REQUESTS: dict[str, tuple[int, str, str, Callable[[], dict[str, Any]]]] = {
    "list": (200, "GET", f"{VECTORS}?limit=1000", dict),
    "vector": (200, "GET", f"{VECTORS}/full", dict),
    "inspect": (200, "GET", f"{VECTORS}/full/inspect?count=100", dict),
    "jobs": (200, "GET", JOBS, dict),
    "job": (200, "GET", f"{JOBS}/job-7", dict),
    "capabilities": (200, "GET", "/v1/steering/capabilities", dict),
    "ready": (200, "GET", "/ready", dict),
    "upload": (200, "POST", VECTORS, lambda: upload_of(vector(0, method_settings=FULL))),
    "upload of too much metadata": (400, "POST", VECTORS, lambda: upload_of(mostly_metadata())),
    "upload of a key twice": (400, "POST", VECTORS, lambda: upload_of(twice())),
    "change": (200, "PATCH", f"{VECTORS}/full", lambda: {"json": {"coefficient": 1.0}}),
    "change of many layers": (
        400, "PATCH", f"{VECTORS}/full",
        lambda: {"content": json.dumps({"layers": [99] * 200_000})},
    ),
    "extraction from few long texts": (
        400, "POST", EXTRACT,
        lambda: extraction(name="/", pairs=[["x" * 20_000_000, "y" * 20_000_000]]),
    ),
    "extraction from many texts": (
        400, "POST", EXTRACT, lambda: extraction(pairs=[["a good text", "a bad text"]] * 60_000),
    ),
    "extraction from a file": (400, "POST", EXTRACT, jsonl),
}  # fmt: skip


@pytest.fixture(scope="module")
def control(lags: Lags, url: str) -> float:
    """The longest lag while nothing is asked."""
    worst, _ = lags.during(lambda: time.sleep(2))
    return worst


@pytest.mark.parametrize("what", REQUESTS)
def test_no_request_holds_the_loop(
    filled: Site, http: httpx.Client, lags: Lags, control: float, what: str
) -> None:
    status, method, path, make = REQUESTS[what]
    request, worst = http.build_request(method, path, **make()), []
    request.read()
    for _ in range(TRIES):
        lag, answer = lags.during(lambda: http.send(request))
        assert answer.status_code == status, answer.text[:500]
        worst.append(lag)
        if lag <= control + HELD_S:
            return
    raise AssertionError(f"held for {worst} s, and without it for {control} s")


def test_a_held_loop_is_seen(lags: Lags, site: Site, http: httpx.Client) -> None:
    """The measure measures."""

    @site.app.get("/holds")
    async def holds() -> None:
        time.sleep(0.5)  # noqa: ASYNC251  # That is the point.

    worst, answer = lags.during(lambda: http.get("/holds"))
    assert answer.status_code == 200
    assert worst > 0.4
