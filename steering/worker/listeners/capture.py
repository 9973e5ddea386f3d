"""Listeners at the sites: captures, which sum a step's tokens, and median norms.

Independent of vLLM. The sites' wrappers call listeners after the addition, so a capture has what
the next block gets.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steersman.steering.plan.capture import Capture, CaptureChunk
from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.worker.hooks import ActiveSlots
from steersman.vectors.tensors import HookPoint


@dataclass
class _Live:
    capture: Capture
    prompt_tokens: int
    reached: int = 0
    """Tokens below this index were captured already; a resumed request computes them again."""
    tokens: int = 0
    kept: list[Tensor] = field(default_factory=list)
    """Sums of earlier steps without an output: float32 [sums, terms, hidden] on the host."""


@dataclass
class _Part:
    """The sums of one request in a step."""

    request_id: str
    sums: slice
    tokens: int
    over: bool
    """Whether the request gets an output from this step."""


class CaptureTracker:
    """All captures of one worker.

    Guarantees: each token of a capture is captured once, however the request is cut into steps.
    Sums are kept only until the request's next output.
    """

    def __init__(
        self, active: ActiveSlots, places: Collection[HookPoint], device: torch.device
    ) -> None:
        """`places`: the hook points that can be captured."""
        self.live: dict[str, _Live] = {}
        self._active = active
        self._places = frozenset(places)
        self._device = device
        self._parts: list[_Part] = []
        self._tokens = torch.empty(0, dtype=torch.long)
        self._sum_of = torch.empty(0, dtype=torch.long)
        self._count = 0
        self._sums: dict[HookPoint, Tensor] = {}

    def start(
        self, request_id: str, extra_args: Mapping[str, object] | None, prompt_tokens: int
    ) -> None:
        """Track a new or resumed request. A capture that is invalid, or of hook points that cannot
        be captured, is ignored: the result then lacks its tokens."""
        try:
            capture = Capture.of(extra_args)
        except PlanInvalid:
            return
        if capture is None or not self._places.issuperset(capture.terms):
            return
        known = self.live.get(request_id)
        if known is None or known.capture != capture:
            self.live[request_id] = _Live(capture, prompt_tokens)

    def finish(self, request_ids: Iterable[str]) -> None:
        """Forget requests that ended."""
        for request_id in request_ids:
            self.live.pop(request_id, None)

    def step(self, spans: Iterable[tuple[str, int, int, int]]) -> None:
        """Capture the tokens of the next forward pass. `spans` as for `SteeredRequests.step`."""
        self._parts, tokens, sum_of, count = [], list[int](), list[int](), 0
        for request_id, offset, number, first in spans:
            request = self.live[request_id]
            lo = max(request.capture.start, first, request.reached)
            hi = min(request.capture.stop, first + number)
            over = first + number >= request.prompt_tokens
            taken = max(0, hi - lo)
            height = taken if request.capture.each else min(taken, 1)
            begin = offset + lo - first
            tokens += range(begin, begin + taken)
            sum_of += range(count, count + taken) if request.capture.each else [count] * taken
            if taken or (over and request.tokens):
                sums_of_it = slice(count, count + height)
                self._parts.append(_Part(request_id, sums_of_it, taken, over))
            request.reached = max(request.reached, first + number)
            count += height
        self._sums = {}
        self._count = count
        if tokens:
            self._tokens = torch.tensor(tokens, device=self._device)
            self._sum_of = torch.tensor(sum_of, device=self._device)
            self._active.listeners.append(self._add_up)

    def end_forward(self) -> None:
        """Call when the forward pass is queued."""
        if self._add_up in self._active.listeners:
            self._active.listeners.remove(self._add_up)

    def _add_up(self, site: str, layer: int, parts: tuple[Tensor, ...]) -> None:
        values = [part.index_select(0, self._tokens).double() for part in parts]
        value = values[0] if len(values) == 1 else values[0] + values[1]
        sums = value.new_zeros(self._count, value.shape[1])
        self._sums[HookPoint(site, layer)] = sums.index_add_(0, self._sum_of, value)

    def take(self) -> dict[str, list[object]]:
        """The `CaptureChunk`, in its wire form, of each captured request that gets an output in
        this step."""
        parts, self._parts = self._parts, []
        sums, self._sums = self._sums, {}
        on_host = {place: n for n, place in enumerate(sums)}
        stacked = torch.stack(tuple(sums.values())).float().cpu() if sums else None
        pieces = {}
        for part in parts:
            request = self.live.get(part.request_id)
            if request is None:
                continue
            terms = request.capture.terms
            if part.tokens and stacked is not None and all(t in on_host for t in terms):
                chosen = stacked[[on_host[t] for t in terms], part.sums]
                request.kept.append(chosen.transpose(0, 1))
                request.tokens += part.tokens
            if part.over and request.tokens:
                kept = torch.cat(request.kept)
                if not request.capture.each:
                    kept = kept.sum(0, keepdim=True)
                piece = CaptureChunk(
                    request.capture.receipt, request.tokens, kept.contiguous().numpy().tobytes()
                )
                pieces[part.request_id] = piece.to_wire()
                request.kept, request.tokens = [], 0
        return pieces


class NormListener:
    """Collects ||h_t|| (L2, float32) at each hook point from running forward passes.

    `positions` is the runner's tensor of token indices. Index 0 is left out, because the first
    token's massive activations are not typical of the layer.
    """

    def __init__(self, positions: Tensor) -> None:
        self._positions = positions
        self._norms: dict[str, list[Tensor]] = {}

    def __call__(self, site: str, layer: int, parts: tuple[Tensor, ...]) -> None:
        """Record the norms of a step's residual stream, the sum of `parts` [tokens, hidden]."""
        stream = torch.stack([part.float() for part in parts]).sum(0)
        tokens = self._positions[: stream.shape[0]] > 0
        norms = torch.linalg.vector_norm(stream[tokens], dim=-1)
        self._norms.setdefault(f"{site}.{layer}", []).append(norms.cpu())

    def medians(self) -> dict[str, float]:
        """Median norm for each "<site>.<layer>" recorded so far."""
        return {k: float(torch.cat(v).median()) for k, v in self._norms.items() if len(v)}
