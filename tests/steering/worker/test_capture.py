"""Captures of a worker: each wanted token once, however a request is cut into steps."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from steersman.steering.plan.capture import CAPTURE_KEY, Capture, CaptureChunk, CaptureResult
from steersman.steering.plan.inbox import CaptureInbox
from steersman.steering.worker.hooks import ActiveSlots
from steersman.steering.worker.listeners.capture import CaptureTracker
from steersman.vectors.tensors import HookPoint

HIDDEN, PROMPT = 5, 12
PLACES = (HookPoint("resid_post", 0), HookPoint("attn_out", 1))


class Bench:
    """A worker's captures, and the stream that its requests would have: a number for each token."""

    def __init__(self) -> None:
        self.active = ActiveSlots(4, always=False)
        self.captures = CaptureTracker(self.active, PLACES, torch.device("cpu"))
        self.inbox = CaptureInbox()

    def start(self, capture: Capture) -> None:
        self.inbox.open(capture)
        self.captures.start(capture.receipt, {CAPTURE_KEY: capture.to_json()}, PROMPT)

    def step(self, spans: Iterable[tuple[str, int, int]]) -> list[str]:
        """Run (request, first, tokens) in one batch; who had an output with something captured."""
        spans = list(spans)
        placed, offset, streams = [], 0, []
        for name, first, tokens in spans:
            placed.append((name, offset, tokens, first))
            streams.append(stream(name, first, tokens))
            offset += tokens
        batch = torch.cat(streams)
        self.captures.step(span for span in placed if span[0] in self.captures.live)
        for listen in self.active.listeners:
            # In two parts, as most of vLLM's blocks return it; and another place's half as large.
            listen("resid_post", 0, (batch - 1, torch.ones_like(batch)))
            listen("attn_out", 1, (batch / 2,))
        self.captures.end_forward()
        assert not self.active.listeners
        pieces = self.captures.take()
        for wire in pieces.values():
            self.inbox.deliver(CaptureChunk(*wire))  # type: ignore[arg-type]
        return list(pieces)


def stream(name: str, first: int, tokens: int) -> torch.Tensor:
    index = torch.arange(first, first + tokens, dtype=torch.float32)
    return (index[:, None] + torch.arange(HIDDEN)) * (1 + len(name))


def expected(capture: Capture, stop: int) -> np.ndarray:
    whole = stream(capture.receipt, capture.start, stop - capture.start)
    rows = torch.stack([whole, whole / 2], dim=1)
    return (rows if capture.each else rows.double().mean(0).float()).numpy()


def check(found: CaptureResult | None, capture: Capture, stop: int) -> None:
    assert found is not None
    assert found.tokens == stop - capture.start
    np.testing.assert_allclose(found.values, expected(capture, stop), rtol=1e-6)


@given(
    start=st.integers(0, 15),
    length=st.integers(1, 10),
    each=st.booleans(),
    cuts=st.sets(st.integers(1, 17)),
    again=st.integers(0, 12),
)
def test_however_a_request_is_cut(
    start: int, length: int, each: bool, cuts: set[int], again: int
) -> None:
    """Prompt of 12 in chunks, then new tokens; preempted once, and computed again from 0."""
    bench = Bench()
    capture = Capture("r", PLACES, start, start + length, each)
    bench.start(capture)
    edges = sorted({0, *(c for c in cuts if c < PROMPT), *range(PROMPT, 19)})
    spans = [(a, b - a) for a, b in pairwise(edges)]
    for n, (first, tokens) in enumerate(spans):
        if n == again:
            bench.captures.start("r", {CAPTURE_KEY: capture.to_json()}, PROMPT)
            bench.step([("r", 0, max(first, 1))])
        told = bench.step([("other", 3, 2), ("r", first, tokens)])
        assert not told or first + tokens >= PROMPT
    reached = min(capture.stop, edges[-1])
    if reached > start:
        check(bench.inbox.close("r"), capture, reached)
    else:
        assert bench.inbox.close("r") is None
    bench.captures.finish(["r"])
    assert not bench.captures.live


def test_requests_of_one_step_do_not_mix() -> None:
    bench = Bench()
    a, b = Capture("a", PLACES, 3, 7), Capture("bb", PLACES, 0, 12, True)
    bench.start(a)
    bench.start(b)
    assert bench.step([("bb", 0, 12), ("a", 0, 12)]) == ["bb", "a"]
    check(bench.inbox.close("a"), a, 7)
    check(bench.inbox.close("bb"), b, 12)


def test_what_cannot_be_listened_to_is_never_delivered() -> None:
    bench = Bench()
    bench.start(Capture("r", (HookPoint("mlp_out", 0),), 0, 5))
    assert not bench.captures.live
    assert bench.inbox.close("r") is None


def test_pieces_of_nobody_are_dropped() -> None:
    inbox = CaptureInbox()
    inbox.deliver(CaptureChunk("gone", 1, b"\0" * 4 * HIDDEN))
    assert inbox.close("gone") is None
