"""Reads: the stream of a step's tokens against vectors of the bank, one number a token.

Independent of vLLM. The sites' wrappers call listeners after the addition, so what is read is what
the next block gets.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from steersman.steering.plan.plan import EVERY_STEP
from steersman.steering.plan.wire.readouts import ReadChunk
from steersman.steering.worker.finite import sent
from steersman.steering.worker.hooks import ActiveSlots
from steersman.vectors.tensors import HookPoint

if TYPE_CHECKING:
    from steersman.steering.worker.requests import LiveRequest

Values = Callable[[], dict[str, list[list[Any]]]]
"""Waits for the step. By request, its `ReadChunk`s in their wire form."""

_AT_ONCE: Final = 512
"""Tokens whose stream is copied at once: the memory is not vLLM's to count."""

MISSED = "tokens that were to be read came from the cache, or were computed outside of a step"
UNHEARD = "the forward pass did not reach the hook points that were to be read"


class _Part(NamedTuple):
    """What the step reads of one request by one readout."""

    request_id: str
    readout: int
    cosine: bool
    first: int
    """Token index of the first."""
    tokens: int
    places: list[tuple[HookPoint, int]]
    """For each term, its hook point and the index of the first value among those of that point."""


class _Wanted(NamedTuple):
    """What is read at one hook point."""

    tokens: list[int]
    """Index in the batch."""
    rows: list[int]
    """For each of them, the bank row that it is compared with."""


class ReadoutTracker:
    """The reads of one worker. Guarantee: each token of a readout is read once, however the request
    is cut into steps; a request of which one cannot be read fails."""

    def __init__(self, active: ActiveSlots, bank: Tensor) -> None:
        """`bank`: [rows, hidden] float32."""
        self._active = active
        self._bank = bank
        self._parts: list[_Part] = []
        self._wanted: dict[HookPoint, tuple[Tensor, Tensor]] = {}
        self._found: dict[HookPoint, Tensor] = {}

    def step(
        self, spans: Iterable[tuple[str, int, int, int]], live: "Mapping[str, LiveRequest]"
    ) -> list[str]:
        """Read the tokens of the next forward pass. `spans` as for `SteeredRequests.step`, which is
        to be called after this. Returns the requests of which tokens were missed."""
        self._parts, self._wanted, self._found = [], {}, {}
        wanted: defaultdict[HookPoint, _Wanted] = defaultdict(lambda: _Wanted([], []))
        missed = []
        for request_id, offset, count, first in spans:
            request = live[request_id]
            for n, readout in enumerate(request.plan.readouts):
                start, stop = readout.span(request.prompt_tokens)
                # Below `counted_to` tokens were read: a resumed request computes them again.
                lo, hi = max(start, request.counted_to), min(stop, first + count)
                if lo >= hi:
                    continue
                if lo < first:
                    missed.append(request_id)
                    break
                assert request.lease is not None, f"{request_id} runs outside of the batch"
                begin, places = offset + lo - first, []
                for point in readout.terms:
                    row = request.lease.rows[readout.digest, *point, EVERY_STEP]  # type: ignore[index]
                    tokens, rows = wanted[point]
                    places.append((point, len(tokens)))
                    tokens += range(begin, begin + hi - lo)
                    rows += [row] * (hi - lo)
                cosine = readout.measure == "cosine"
                self._parts.append(_Part(request_id, n, cosine, lo, hi - lo, places))
        if wanted:
            device = self._bank.device
            self._wanted = {
                point: (torch.tensor(tokens, device=device), torch.tensor(rows, device=device))
                for point, (tokens, rows) in wanted.items()
            }
            self._active.readers.append(self._read)
        return missed

    def _read(self, site: str, layer: int, parts: tuple[Tensor, ...]) -> None:
        wanted = self._wanted.get(HookPoint(site, layer))
        if wanted is None:
            return
        found = []
        for begin in range(0, len(wanted[0]), _AT_ONCE):
            tokens, rows = (one[begin : begin + _AT_ONCE] for one in wanted)
            values = [part.index_select(0, tokens).float() for part in parts]
            stream = (values[0] if len(values) == 1 else values[0] + values[1]).double()
            vector = self._bank.index_select(0, rows).double()
            length = torch.linalg.vector_norm(vector, dim=-1)
            along = (stream * vector).sum(-1) / length
            found.append(torch.stack([along, torch.linalg.vector_norm(stream, dim=-1)]))
        self._found[HookPoint(site, layer)] = torch.cat(found, dim=1)

    def end_forward(self) -> None:
        """Call when the forward pass is queued."""
        if self._read in self._active.readers:
            self._active.readers.remove(self._read)

    def take(self, failed: dict[str, str]) -> Values | None:
        """What the step read; None if nothing. Requests of a hook point that the forward pass did
        not reach are added to `failed`."""
        parts, self._parts = self._parts, []
        found, self._found = self._found, {}
        for part in parts:
            if any(point not in found for point, _ in part.places):
                failed[part.request_id] = UNHEARD
        parts = [part for part in parts if part.request_id not in failed]
        if not parts:
            return None
        starts, total = {}, 0
        for point, values in found.items():
            starts[point] = total
            total += values.shape[1]
        wait = sent(torch.cat(tuple(found.values()), dim=1))

        def values_of() -> dict[str, list[list[Any]]]:
            along, norms = wait().numpy()
            chunks: dict[str, list[list[Any]]] = {}
            for part in parts:
                values = np.empty((len(part.places), part.tokens), np.float32)
                for k, (point, begin) in enumerate(part.places):
                    at = slice(starts[point] + begin, starts[point] + begin + part.tokens)
                    # Of a stream that is 0 every cosine is 0.
                    by = np.where(norms[at] > 0, norms[at], 1.0) if part.cosine else 1.0
                    values[k] = along[at] / by
                chunk = ReadChunk(part.readout, part.first, values.tobytes())
                chunks.setdefault(part.request_id, []).append(list(chunk))
            return chunks

        return values_of
