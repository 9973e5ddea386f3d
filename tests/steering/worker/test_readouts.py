"""Reads of a worker: each wanted token once, however a request is cut, or the request fails."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from steersman.steering.plan import Plan
from steersman.steering.plan.wire.readouts import Readout, Tokens
from steersman.steering.worker.hooks import ActiveSlots
from steersman.steering.worker.listeners.readouts import UNHEARD, ReadoutTracker
from steersman.vectors.tensors import HookPoint
from tests.steering.worker.test_requests import HIDDEN, PROMPT, Worker, content
from tests.support.steering.make import digest

PLACES = (HookPoint("attn_out", 1), HookPoint("resid_post", 0))


class Bench:
    """A worker's reads, and the stream that its requests would have."""

    def __init__(self) -> None:
        self.worker = Worker()
        self.requests = self.worker.requests
        self.active = ActiveSlots(4, always=False)
        self.tracker = ReadoutTracker(self.active, self.worker.tables.bank)
        self.found: dict[str, list[list[Any]]] = {}
        self.failed: dict[str, str] = {}

    def start(self, name: str, *readouts: Readout) -> None:
        self.worker.start(name, Plan((), readouts=readouts))

    def step(self, *spans: tuple[str, int, int], deaf: Iterable[HookPoint] = ()) -> list[str]:
        """Run (request, first, tokens) in one batch, without the hook points `deaf`."""
        placed, offset, streams = [], 0, []
        for name, first, tokens in spans:
            placed.append((name, offset, tokens, first))
            streams.append(stream(name, first, tokens))
            offset += tokens
        batch = torch.cat(streams)
        self.requests.sync_batch({name: n for n, (name, *_) in enumerate(spans)})
        missed = self.tracker.step(placed, self.requests.live)
        self.requests.step([one for one in placed if one[0] not in missed], offset)
        for listen in list(self.active.readers):
            for place, parts in (
                (PLACES[1], (batch - 1, torch.ones_like(batch))),
                (PLACES[0], (batch / 2,)),
                (HookPoint("resid_post", 1), (batch * 7,)),
            ):
                if place not in deaf:
                    listen(*place, parts)
        self.tracker.end_forward()
        assert not self.active.readers
        values = self.tracker.take(self.failed)
        for name, chunks in ({} if values is None else values()).items():
            self.found.setdefault(name, []).extend(chunks)
        return missed


def stream(name: str, first: int, tokens: int) -> torch.Tensor:
    index = torch.arange(first, first + tokens, dtype=torch.float32)
    return (index[:, None] + torch.arange(HIDDEN)) * (1 + len(name))


def wanted(name: str, readout: Readout, stop: int) -> np.ndarray:
    start, end = readout.span(PROMPT)
    whole = stream(name, start, min(stop, end) - start).double().numpy()
    rows = []
    for point in readout.terms:
        v = content(readout.digest, *point).double().numpy()
        values = whole @ v / np.linalg.norm(v) / (2 if point.site == "attn_out" else 1)
        if readout.measure == "cosine":
            values = values / np.maximum(np.linalg.norm(whole, axis=-1), 1e-30)
            values = values * (2 if point.site == "attn_out" else 1)
        rows.append(values)
    return np.stack(rows)


def joined(bench: Bench, name: str, n: int, readout: Readout) -> np.ndarray:
    start, _ = readout.span(PROMPT)
    parts = []
    for which, first, values in bench.found.get(name, []):
        if which == n:
            parts.append(np.frombuffer(values, np.float32).reshape(len(readout.terms), -1))
            assert first == start
            start += parts[-1].shape[1]
    return np.concatenate(parts, axis=1)


@given(
    tokens=st.permutations(["answer", "prompt", "last"]),
    cuts=st.sets(st.integers(1, 11)),
    again=st.integers(0, 11),
)
def test_however_a_request_is_cut(tokens: list[Tokens], cuts: set[int], again: int) -> None:
    """Also when it is preempted after so many tokens, and computes them again."""
    bench = Bench()
    readouts = (
        Readout(digest(1), PLACES, "projection", tokens[0]),
        Readout(digest(2), PLACES[1:], "cosine", tokens[1]),
    )
    other = Readout(digest(2), PLACES[:1], "projection", tokens[2])
    bench.start("request", *readouts)
    bench.start("o", other)
    if again:
        bench.step(("o", 0, PROMPT), ("request", 0, again))
        bench.requests.sync_batch({})
    for n, (first, stop) in enumerate(pairwise(sorted({0, *cuts, 12}))):
        beside = [("o", PROMPT + n, 1)] if again else []
        assert bench.step(("request", first, stop - first), *beside) == []
    for n, readout in enumerate(readouts):
        np.testing.assert_allclose(
            joined(bench, "request", n, readout),
            wanted("request", readout, 12),
            rtol=1e-5,
            atol=1e-6,
        )
    assert not bench.failed


def test_what_the_cache_had_is_missed_and_said() -> None:
    bench = Bench()
    bench.start("all", Readout(digest(1), PLACES, "projection", "prompt"))
    bench.start("last", Readout(digest(1), PLACES, "projection", "last"))
    assert bench.step(("all", 2, PROMPT - 2), ("last", 2, PROMPT - 2)) == ["all"]
    assert list(bench.found) == ["last"]


def test_a_hook_point_that_is_not_reached_fails_its_request() -> None:
    bench = Bench()
    bench.start("there", Readout(digest(1), PLACES[1:], "projection", "prompt"))
    bench.start("lost", Readout(digest(1), PLACES, "projection", "prompt"))
    bench.step(("there", 0, PROMPT), ("lost", 0, PROMPT), deaf=PLACES[:1])
    assert bench.failed == {"lost": UNHEARD}
    assert list(bench.found) == ["there"]


def test_nothing_is_read_beside_requests_that_do_not() -> None:
    bench = Bench()
    bench.start("later", Readout(digest(1), PLACES, "projection", "answer"))
    bench.step(("later", 0, PROMPT - 1))
    assert bench.found == {}
    assert bench.active.readers == []
