"""The plan: one request's steering, resolved. It travels as JSON in `SamplingParams.extra_args`."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple, Self

from steering.plan.errors import PlanInvalid
from steering.plan.positions import PositionRule, check_rule, interval

PLAN_KEY: Final = "steersman"
"""The key of `SamplingParams.extra_args` that holds the plan as a JSON string."""

Row = tuple[str, str, int]
"""What one bank row holds: (digest, site, layer)."""


def as_float32(value: float) -> float:
    """`value` rounded to float32, the precision the engine adds in."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return rounded


class Segment(NamedTuple):
    """A stretch [start, stop) of token indices under one set of vectors."""

    start: int
    stop: int
    active: tuple[int, ...]
    """Indices into `Plan.vectors`, ascending."""


@dataclass(frozen=True)
class PlannedVector:
    """One vector of a plan: c * v is added at each of `terms`, at the tokens of `positions`."""

    digest: str
    """"sha256:" and 64 hex digits."""
    coefficient: float
    """float32-exact."""
    terms: tuple[tuple[str, int], ...]
    """(site, layer) pairs, ascending."""
    positions: PositionRule


@dataclass(frozen=True)
class Plan:
    """All of one request's steering. `receipt` names the desk entry its counts go to."""

    vectors: tuple[PlannedVector, ...]
    receipt: str = ""

    def rows(self) -> frozenset[Row]:
        """Bank rows that must be resident while the request runs."""
        return frozenset((v.digest, site, layer) for v in self.vectors for site, layer in v.terms)

    def segments(self, prompt_tokens: int) -> tuple[Segment, ...]:
        """The request's steered stretches, ascending and disjoint; unsteered gaps are left out."""
        spans = [interval(v.positions, prompt_tokens) for v in self.vectors]
        cuts = sorted({edge for span in spans for edge in span})
        segments: list[Segment] = []
        for start, stop in pairwise(cuts):
            active = tuple(n for n, (lo, hi) in enumerate(spans) if lo <= start and stop <= hi)
            if active and segments and segments[-1].stop == start and segments[-1].active == active:
                segments[-1] = segments[-1]._replace(stop=stop)
            elif active:
                segments.append(Segment(start, stop, active))
        return tuple(segments)

    def steered_within(self, start: int, stop: int, prompt_tokens: int) -> tuple[int, ...]:
        """For each vector, how many of the tokens [start, stop) it is added to."""
        spans = (interval(v.positions, prompt_tokens) for v in self.vectors)
        return tuple(max(0, min(hi, stop) - max(lo, start)) for lo, hi in spans)

    def cache_key(self, start: int, stop: int, prompt_tokens: int) -> str | None:
        """What the prefix cache must tell apart in a block of tokens [start, stop).

        Names the exact addition at each token, so two requests whose rules differ but whose effect
        on the block is the same share it, and an unsteered block (None) is everybody's.
        """
        parts: list[tuple[int, int, list[Any]]] = []
        for segment in self.segments(prompt_tokens):
            lo, hi = max(segment.start, start), min(segment.stop, stop)
            if lo < hi:
                terms = sorted(
                    (site, layer, v.digest, v.coefficient)
                    for v in (self.vectors[n] for n in segment.active)
                    for site, layer in v.terms
                    if v.coefficient != 0.0
                )
                if terms and parts and parts[-1][1:] == (lo, terms):
                    parts[-1] = (parts[-1][0], hi, terms)
                elif terms:
                    parts.append((lo, hi, terms))
        return json.dumps(parts, separators=(",", ":")) if parts else None

    def to_json(self) -> str:
        """The form that `from_json` takes back."""
        vectors = [
            {"digest": v.digest, "coefficient": v.coefficient, "terms": v.terms,
             "positions": v.positions}
            for v in self.vectors
        ]  # fmt: skip
        return json.dumps({"vectors": vectors, "receipt": self.receipt}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: object) -> Self:
        """Read a plan; raises `PlanInvalid` for anything that `to_json` would not write."""
        if not isinstance(text, str):
            raise PlanInvalid(f"extra argument {PLAN_KEY!r} must be a plan as a JSON string")
        try:
            data = json.loads(text)
            vectors = tuple(_read_vector(item) for item in data["vectors"])
            receipt = data.get("receipt", "")
        except PlanInvalid:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise PlanInvalid(f"not a steering plan: {error!r:.200}") from error
        if not isinstance(receipt, str) or len(receipt) > 64:
            raise PlanInvalid("a plan's receipt is a short string")
        return cls(vectors=vectors, receipt=receipt)

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> Self | None:
        """The plan in a request's `extra_args`, or None for an unsteered request."""
        if not extra_args or PLAN_KEY not in extra_args:
            return None
        return cls.from_json(extra_args[PLAN_KEY])


def _read_vector(item: Mapping[str, Any]) -> PlannedVector:
    digest = item["digest"]
    hexes = digest.removeprefix("sha256:")
    if len(hexes) != 64 or not set(hexes) <= set("0123456789abcdef"):
        raise PlanInvalid("a plan's digest is sha256: and 64 hex digits")
    coefficient = item["coefficient"]
    if isinstance(coefficient, bool) or not isinstance(coefficient, int | float):
        raise PlanInvalid("a plan's coefficient is a number", param="steering.coefficient")
    terms = set()
    for site, layer in item["terms"]:
        if not isinstance(site, str) or not isinstance(layer, int) or isinstance(layer, bool):
            raise PlanInvalid("a plan's terms are (site, layer) pairs")
        terms.add((site, layer))
    positions = item["positions"]
    return PlannedVector(
        digest="sha256:" + hexes,
        coefficient=as_float32(coefficient),
        terms=tuple(sorted(terms)),
        positions=check_rule(tuple(positions) if isinstance(positions, list) else positions),
    )
