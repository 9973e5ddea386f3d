"""A short key for the steering of a block's tokens, which keeps blocks apart in the prefix cache.

The key names the exact addition at each token of the block, so two requests whose rules differ but
whose effect on the block is the same share it. An addition is named by a digest of its set of
(site, layer, vector, step, coefficient), with repetitions; another operation than adding is named
beside its vector. The digest is computed once for each
stretch of tokens with one coefficient, whatever the number of terms and blocks. Where coefficients
change from token to token, each token costs a digest over a few bytes for each vector.
"""

import json
import struct
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from itertools import chain, groupby, repeat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from steersman.steering.plan.plan import Plan, PlannedVector, Segment

DIGEST_BYTES: Final = 16

_STEP_AND_COEFFICIENT = struct.Struct("<qd")

Place = tuple[str, int] | tuple[str, int, float]
"""Where a vector acts, with what is particular to it there (`PlannedVector.places`)."""
Addition = bytes | None
"""Digest of all that is added at a token; None for nothing."""


class CacheKeys:
    """The keys of one request's blocks. Assumption: its plan is not dynamic."""

    def __init__(self, plan: "Plan", prompt_tokens: int) -> None:
        """Raises `PlanInvalid` for positions outside the prompt."""
        self._plan = plan
        self._prompt_tokens = prompt_tokens
        self._spans, _, self._segments = plan.layout(prompt_tokens)
        self._starts = [segment.start for segment in self._segments]
        counts = Counter(vector.digest for vector in plan.vectors)
        self._repeated = {n for n, v in enumerate(plan.vectors) if counts[v.digest] > 1}
        self._settled: dict[int, Addition] = {}
        """By segment: the addition where its coefficients change no more."""
        self._unions: dict[tuple[int, ...], bytes] = {}

    def of(self, start: int, stop: int) -> str | None:
        """The key of a block of tokens [start, stop). None if nothing is added: every request may
        then share the block."""
        parts: list[tuple[int, int, bytes]] = []
        for first, end, addition in self._additions(start, stop):
            if addition is None:
                continue
            if parts and parts[-1][1:] == (first, addition):
                parts[-1] = (parts[-1][0], end, addition)
            else:
                parts.append((first, end, addition))
        if not parts:
            return None
        key = ";".join(f"{first}:{end}:{addition.hex()}" for first, end, addition in parts)
        # The digest of many parts is as long as one part.
        return key if len(parts) == 1 else blake2b(key.encode(), digest_size=16).hexdigest()

    def _additions(self, start: int, stop: int) -> "list[tuple[int, int, Addition]]":
        """(first, end, addition) of each stretch within [start, stop), in ascending order."""
        found: list[tuple[int, int, Addition]] = []
        place = max(0, bisect_right(self._starts, start) - 1)
        while place < len(self._segments) and self._segments[place].start < stop:
            segment = self._segments[place]
            lo, hi = max(segment.start, start), min(segment.stop, stop)
            settled = min(max(lo, self._settles(segment)), hi) if lo < hi else hi
            if lo < settled:
                found += self._token_by_token(segment, lo, settled)
            if settled < hi:
                if place not in self._settled:
                    coefficients = [self._coefficient(n, settled) for n in segment.active]
                    self._settled[place] = self._addition(segment, coefficients)
                found.append((settled, hi, self._settled[place]))
            place += 1
        return found

    def _settles(self, segment: "Segment") -> int:
        """The token index from which on no coefficient of the segment changes."""
        ends = [
            self._spans[n][0] + len(self._plan.vectors[n].schedule) - 1
            for n in segment.active
            if self._plan.vectors[n].schedule
        ]
        return max(ends, default=segment.start)

    def _coefficient(self, n: int, token: int) -> float:
        return self._plan.vectors[n].coefficient_at(token - self._spans[n][0])

    def _token_by_token(
        self, segment: "Segment", lo: int, hi: int
    ) -> "list[tuple[int, int, Addition]]":
        columns = [
            _coefficients(self._plan.vectors[n], lo - self._spans[n][0], hi - lo)
            for n in segment.active
        ]
        found = []
        first = lo
        for coefficients, tokens in groupby(zip(*columns, strict=True)):
            end = first + sum(1 for _ in tokens)
            found.append((first, end, self._addition(segment, coefficients)))
            first = end
        return found

    def _addition(self, segment: "Segment", coefficients: Sequence[float]) -> Addition:
        vectors = self._plan.vectors
        parts: list[bytes] = []
        alike: defaultdict[tuple[str, int, float], list[int]] = defaultdict(list)
        for n, step, c in zip(segment.active, segment.steps, coefficients, strict=True):
            if not c or not vectors[n].terms:  # -0.0 is nothing as well.
                continue
            if n in self._repeated:
                alike[vectors[n].effect, step, c].append(n)
            else:
                parts.append(vectors[n].terms_digest + _STEP_AND_COEFFICIENT.pack(step, c))
        # One vector named twice, equally strong, is it named once with the terms of both.
        for (_, step, c), named in alike.items():
            parts.append(self._union(tuple(named)) + _STEP_AND_COEFFICIENT.pack(step, c))
        if parts and self._plan.keep_norm:
            parts.append(b"keep_norm")
        if parts and any(self._latched(n) for n in segment.active):
            parts.append(b"decided at the end of %d" % self._prompt_tokens)
        return (
            blake2b(b"".join(sorted(parts)), digest_size=DIGEST_BYTES).digest() if parts else None
        )

    def _latched(self, n: int) -> bool:
        """Whether the gate of vector `n` is decided by the prompt, whose length then matters."""
        gate = self._plan.vectors[n].gate
        return gate is not None and gate.latched

    def _union(self, named: tuple[int, ...]) -> bytes:
        vectors = [self._plan.vectors[n] for n in named]
        if len(vectors) == 1:
            return vectors[0].terms_digest
        if named not in self._unions:
            terms = list(chain.from_iterable(vector.places for vector in vectors))
            self._unions[named] = digest_of_terms(vectors[0].effect, terms)
        return self._unions[named]


def _coefficients(vector: "PlannedVector", step: int, count: int) -> Sequence[float]:
    """The coefficients of `count` of a vector's steps from `step` on."""
    if not vector.schedule:
        return tuple(repeat(vector.coefficient, count))
    listed = vector.schedule[step : step + count]
    return (*listed, *repeat(vector.schedule[-1], count - len(listed)))


def digest_of_terms(effect: str, places: Sequence[Place]) -> bytes:
    """A digest for what is done (`PlannedVector.effect`) at a set of (site, layer) places, with
    repetitions, in any order."""
    text = json.dumps([effect, sorted(places)], separators=(",", ":"))
    return blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()
