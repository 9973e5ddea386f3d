"""The plan: one request's steering, resolved. It travels as JSON in `SamplingParams.extra_args`."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Annotated, Any, Final, NamedTuple, Self, cast

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from steersman.steering.plan.cache_key import CacheKeys, digest_of_terms
from steersman.steering.plan.dynamic import Dynamic
from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.positions import PositionRule, check_rule, interval
from steersman.steering.plan.receipt import steered_within
from steersman.steering.plan.when.gates import PlannedGate
from steersman.steering.plan.when.markers import Marker, marker_of
from steersman.steering.plan.wire.readouts import Readout
from steersman.vectors.errors import VectorInvalid
from steersman.vectors.operation import ADD, Operation
from steersman.vectors.parts import columns_of
from steersman.vectors.tensors import HookPoint

PLAN_KEY: Final = "steersman"
"""The key of `SamplingParams.extra_args` that holds the plan as a JSON string."""

MAX_PLAN: Final = 2**20
"""The most characters of a plan: every process reads it while others wait."""


class BankKey(NamedTuple):
    """Identifies the content of one bank row: one tensor of a vector."""

    digest: str
    site: str
    layer: int
    step: int
    """Index of the tensor; `EVERY_STEP` for a vector with one tensor for all steps."""


VectorRows = tuple[str, str, int, int]
"""Bank rows that are always resident together: (digest, site, layer, number of rows); one row a
step."""

EVERY_STEP: Final = -1
"""The `step` of a tensor that is used at all steps."""


def as_float32(value: float) -> float:
    """`value` rounded to float32, the precision the engine adds in."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except (OverflowError, struct.error):  # The second: a whole number past every float.
        return float("inf") if value > 0 else float("-inf")
    return rounded


class Stretch(NamedTuple):
    """Token indices [start, stop) at which the same vectors are active."""

    start: int
    stop: int
    active: tuple[int, ...]
    """Indices into `Plan.vectors`, ascending."""


class Segment(NamedTuple):
    """A stretch, or the part of one in which each active vector adds the same tensor at every
    token."""

    start: int
    stop: int
    active: tuple[int, ...]
    """Indices into `Plan.vectors`, ascending."""
    steps: tuple[int, ...]
    """For each active vector, the index of the tensor that it adds."""


class Layout(NamedTuple):
    """How a plan divides one request. Token indices count from the start of the request."""

    spans: tuple[tuple[int, int], ...]
    """For each vector the half-open interval of tokens that it steers."""
    stretches: tuple[Stretch, ...]
    """Ascending and disjoint; tokens without an active vector are left out."""
    segments: tuple[Segment, ...]
    """The stretches, cut where a vector reaches its next tensor."""


_LONGEST_SITE: Final = 64
_MAX_LAYOUTS: Final = 8
"""Most layouts that one plan keeps: the prompts of one call share a plan and have few lengths."""


@dataclass(frozen=True)
class PlannedVector:
    """One vector of a plan: at each hook point of `terms`, its operation is done to the tokens of
    `positions`, such as c * v added.

    The i-th token that it steers is its step i, counted from 0.
    """

    digest: str
    """"sha256:" and 64 hex digits."""
    coefficient: float
    """Exactly a float32. In a dynamic plan, the largest that it may be."""
    terms: tuple[HookPoint, ...]
    """(site, layer) pairs, ascending."""
    positions: PositionRule
    schedule: tuple[float, ...] = ()
    """A coefficient for each step, in place of the one for all; each exactly a float32."""
    steps: int = 1
    """Number of its tensors: one for each step, or 1 for one that is used at all steps."""
    hold: bool = False
    """After the last of several steps: True continues with the last, False stops steering."""
    operation: Operation = ADD
    rows: int = 1
    """Of another operation than `add`: bank rows at each hook point (`steersman.vectors.parts`)."""
    units: tuple[float, ...] = ()
    """What `min` and `max` of the operation are multiplied by at each of `terms`, exactly float32;
    empty for 1."""
    gate: PlannedGate | None = None
    """What decides whether it acts; None: it always does."""

    @property
    def row_steps(self) -> Sequence[int]:
        """The `BankKey.step` of each of its bank rows at a hook point."""
        count = self.steps if self.operation.adds else self.rows
        return range(count) if count > 1 else (EVERY_STEP,)

    @property
    def columns(self) -> int:
        """Terms of a table entry that it takes at a hook point."""
        return columns_of(self.operation.name, self.rows)

    def bounds(self, term: int) -> tuple[float, float]:
        """`min` and `max` of its operation at the hook point `terms[term]`, in the stream's
        units."""
        unit = self.units[term] if self.units else 1.0
        low, high = self.operation.min, self.operation.max
        return -math.inf if low is None else low * unit, math.inf if high is None else high * unit

    @cached_property
    def effect(self) -> str:
        """What it does, but for where and how strongly: its digest, its operation unless it adds,
        its gate and its marker."""
        if self.operation.adds and not self.is_conditional:
            return self.digest
        gate = [] if self.gate is None else [self.gate.said()]
        marker = [] if self.marker is None else [self.marker.rule]
        return json.dumps([self.digest, self.operation.said(), *gate, *marker], sort_keys=True)

    @cached_property
    def marker(self) -> Marker | None:
        """The marker of its positions."""
        return marker_of(self.positions)

    @property
    def is_conditional(self) -> bool:
        """Whether it is known only in the forward pass at which tokens it acts."""
        return self.gate is not None or self.marker is not None

    @property
    def places(self) -> tuple[tuple[str, int] | tuple[str, int, float], ...]:
        """Its terms, with what is particular to each of them."""
        if not self.units:
            return self.terms
        return tuple((*term, unit) for term, unit in zip(self.terms, self.units, strict=True))

    @cached_property
    def strongest(self) -> float:
        """The largest absolute value of its coefficients; NaN if one of them is not finite."""
        numbers = np.abs(np.asarray(self.schedule or (self.coefficient,)))
        if not np.isfinite(numbers).all() or not math.isfinite(self.coefficient):
            return math.nan
        return float(numbers.max())

    @cached_property
    def terms_digest(self) -> bytes:
        """A digest of what it does at its terms, whatever their order."""
        return digest_of_terms(self.effect, self.places)

    def span(self, prompt_tokens: int) -> tuple[int, int]:
        """Half-open interval of the token indices that it steers in a prompt of this length. Raises
        `PlanInvalid`."""
        start, stop = interval(self.positions, prompt_tokens)
        if self.schedule and not self.hold:
            stop = min(stop, start + len(self.schedule))
        if self.steps > 1 and not self.hold:
            stop = min(stop, start + self.steps)
        return start, stop

    def tensor_at(self, step: int) -> int:
        """Index of the tensor that it adds at `step`."""
        return EVERY_STEP if self.steps == 1 else min(step, self.steps - 1)

    def coefficient_at(self, step: int) -> float:
        """The coefficient at `step`."""
        if not self.schedule:
            return self.coefficient
        return self.schedule[min(step, len(self.schedule) - 1)]


@dataclass(frozen=True)
class Plan:
    """The steering of one request. `receipt` is the name of its receipt in `RECEIPTS`, for its
    counts."""

    vectors: tuple[PlannedVector, ...]
    receipt: str = ""
    dynamic: Dynamic | None = None
    keep_norm: bool = False
    """After all changes at a hook point, the stream has the norm that it had."""
    readouts: tuple[Readout, ...] = ()
    """What is read of the stream; it changes nothing."""

    @cached_property
    def reads(self) -> bool:
        """Whether anything that it does depends on the stream, or is read where it is done: then
        it may not be done elsewhere, to the same effect."""
        read = {point for one in self.readouts for point in one.terms if point[0] != "resid_post"}
        return self.keep_norm or any(
            not vector.operation.adds or vector.is_conditional or not read.isdisjoint(vector.terms)
            for vector in self.vectors
        )

    @cached_property
    def conditional(self) -> tuple[int, ...]:
        """Indices of the vectors with a gate or a marker."""
        return tuple(n for n, vector in enumerate(self.vectors) if vector.is_conditional)

    @cached_property
    def gates(self) -> dict[int, PlannedGate]:
        """By index of the vector, the gates that there are."""
        return {n: v.gate for n, v in enumerate(self.vectors) if v.gate is not None}

    @cached_property
    def bank_keys(self) -> frozenset[BankKey]:
        """What the bank must hold while the request runs."""
        # Plain tuples: there may be thousands, and a NamedTuple takes ten times as long to make.
        keys = frozenset(
            (v.digest, site, layer, step)
            for v in self.vectors
            for site, layer in v.terms
            for step in v.row_steps
        )
        read = ((one.digest, *point, EVERY_STEP) for one in self.readouts for point in one.terms)
        gates = ((gate.digest, *gate.point, EVERY_STEP) for gate in self.gates.values())
        return cast("frozenset[BankKey]", keys.union(read, gates))

    @cached_property
    def row_sets(self) -> frozenset[VectorRows]:
        """`bank_keys`, grouped into sets of rows that are always resident together."""
        read = ((one.digest, *point, 1) for one in self.readouts for point in one.terms)
        gates = ((gate.digest, *gate.point, 1) for gate in self.gates.values())
        return frozenset(
            (v.digest, site, layer, len(v.row_steps))
            for v in self.vectors
            for site, layer in v.terms
        ).union(read, gates)

    @property
    def bank_rows(self) -> int:
        """Number of `bank_keys`."""
        return sum(rows[-1] for rows in self.row_sets)

    @property
    def varies(self) -> bool:
        """Whether a coefficient changes from one token to the next."""
        return self.dynamic is not None or any(v.schedule for v in self.vectors)

    def layout(self, prompt_tokens: int) -> Layout:
        """How the plan divides a request with this number of prompt tokens; computed once for each
        number. Raises `PlanInvalid` for positions outside the prompt."""
        found = self._layouts.get(prompt_tokens)
        if found is None:
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            found = self._layouts[prompt_tokens] = _laid_out(self.vectors, prompt_tokens)
        return found

    @cached_property
    def _layouts(self) -> dict[int, Layout]:
        return {}

    def segments(self, prompt_tokens: int) -> tuple[Segment, ...]:
        """`layout(prompt_tokens).segments`."""
        return self.layout(prompt_tokens).segments

    def steered_within(self, start: int, stop: int, prompt_tokens: int) -> tuple[int, ...]:
        """For each vector, how many of the tokens [start, stop) it is added to."""
        return steered_within(self.layout(prompt_tokens).spans, start, stop)

    def gains(self, segment: Segment, lo: int, hi: int, prompt_tokens: int) -> NDArray[np.float32]:
        """The coefficients of a segment's active vectors at its tokens [lo, hi): float32 [hi - lo,
        active]. Assumption: the plan is not dynamic."""
        spans = self.layout(prompt_tokens).spans
        found = np.empty((hi - lo, len(segment.active)), dtype=np.float32)
        for k, n in enumerate(segment.active):
            vector = self.vectors[n]
            step = lo - spans[n][0]
            listed = vector.schedule[step : step + hi - lo]
            found[: len(listed), k] = listed
            found[len(listed) :, k] = vector.schedule[-1] if listed else vector.coefficient_at(step)
        return found

    def cache_key(self, start: int, stop: int, prompt_tokens: int) -> str | None:
        """The key of the steering in a block of tokens [start, stop); None if nothing is added. For
        many blocks of one request, keep one `CacheKeys`."""
        return CacheKeys(self, prompt_tokens).of(start, stop)

    def alone(self, stream: int) -> Self | None:
        """The plan of companion `stream` of a dynamic request. Companion n, from 1, is steered by
        the n-th vector alone, at its coefficient `start`; companion 0 is unsteered: None."""
        if self.dynamic is None or stream == 0:
            return None
        start = as_float32(self.dynamic.start_of(stream - 1))
        return type(self)((replace(self.vectors[stream - 1], coefficient=start),))

    def to_json(self) -> str:
        """The JSON string that `from_json` reads."""
        vectors = [_VectorWire.of(v) for v in self.vectors]
        wire = _PlanWire(vectors, self.receipt, self.dynamic, self.keep_norm, self.readouts)
        return msgspec.json.encode(wire).decode()

    @classmethod
    def from_json(cls, text: object) -> Self:
        """Read a plan; raises `PlanInvalid` for anything that `to_json` would not write."""
        if not isinstance(text, str) or len(text) > MAX_PLAN:
            raise PlanInvalid(
                f"extra argument {PLAN_KEY!r} must be a plan, a JSON string of at most "
                f"{MAX_PLAN} characters"
            )
        try:
            wire = _READER.decode(text)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise PlanInvalid(f"not a steering plan: {error!s:.200}") from error
        if wire.dynamic is not None:
            wire.dynamic.check(len(wire.vectors))
        vectors = tuple(v.read() for v in wire.vectors)
        return cls(vectors, wire.receipt, wire.dynamic, wire.keep_norm, wire.readouts)

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> "Plan | None":
        """The plan in a request's `extra_args`; None for an unsteered request. Raises
        `PlanInvalid`."""
        if not extra_args or PLAN_KEY not in extra_args:
            return None
        text = extra_args[PLAN_KEY]
        # The prompts of one call, and its choices, have one plan.
        return _read_once(text) if isinstance(text, str) else cls.from_json(text)


def _laid_out(vectors: Sequence[PlannedVector], prompt_tokens: int) -> Layout:
    spans = tuple(v.span(prompt_tokens) for v in vectors)
    stretches: list[Stretch] = []
    for start, stop in pairwise(sorted({edge for span in spans for edge in span})):
        active = tuple(n for n, (lo, hi) in enumerate(spans) if lo <= start and stop <= hi)
        if active and stretches and stretches[-1][1:] == (start, active):
            stretches[-1] = stretches[-1]._replace(stop=stop)
        elif active:
            stretches.append(Stretch(start, stop, active))
    segments = []
    for start, stop, active in stretches:
        cuts = {start, stop}
        for n in active:
            cuts.update(range(spans[n][0] + 1, spans[n][0] + vectors[n].steps))
        for lo, hi in pairwise(sorted(cut for cut in cuts if start <= cut <= stop)):
            steps = tuple(vectors[n].tensor_at(lo - spans[n][0]) for n in active)
            segments.append(Segment(lo, hi, active, steps))
    return Layout(spans, tuple(stretches), tuple(segments))


@lru_cache(maxsize=4)
def _read_once(text: str) -> Plan:
    return Plan.from_json(text)


class _VectorWire(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A `PlannedVector` as it travels."""

    digest: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
    coefficient: float
    terms: tuple[HookPoint, ...]
    positions: str | tuple[int, int]
    schedule: bytes = b""
    """float32, little-endian, packed: a long list of numbers would take a worker's step."""
    steps: Annotated[int, Meta(ge=1)] = 1
    hold: bool = False
    operation: dict[str, str | bool | float] = {}
    """`Operation.said`."""
    rows: Annotated[int, Meta(ge=1)] = 1
    units: bytes = b""
    """As `schedule`."""
    gate: PlannedGate | None = None

    @classmethod
    def of(cls, vector: PlannedVector) -> Self:
        return cls(vector.digest, vector.coefficient, vector.terms, vector.positions,
                   _packed(vector.schedule), vector.steps, vector.hold, vector.operation.said(),
                   vector.rows, _packed(vector.units), vector.gate)  # fmt: skip

    def read(self) -> PlannedVector:
        """The `PlannedVector`. Raises `PlanInvalid` for values that the types allow and a plan
        cannot have."""
        if len(self.schedule) % 4 or len(self.units) % 4:
            raise PlanInvalid("a plan's schedule must be base64 over float32")
        terms, units = tuple(sorted(set(self.terms))), _unpacked(self.units)
        if units and (len(units) != len(self.terms) or terms != self.terms):
            raise PlanInvalid("a plan's units must be as many as its terms, and these ascending")
        if any(len(site) > _LONGEST_SITE for site, _ in self.terms):
            raise PlanInvalid("a plan's terms must be (site, layer) pairs")
        return PlannedVector(
            digest=self.digest,
            coefficient=as_float32(self.coefficient),
            terms=terms,
            positions=check_rule(self.positions),
            schedule=_unpacked(self.schedule),
            steps=self.steps,
            hold=self.hold,
            operation=_operation(self.operation),
            rows=self.rows,
            units=units,
            gate=self.gate and replace(self.gate, threshold=as_float32(self.gate.threshold)),
        )


def _packed(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def _unpacked(values: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(values) // 4}f", values)


def _operation(said: dict[str, str | bool | float]) -> Operation:
    """The operation with the fields `said`, which `Operation.said` gives. Raises `PlanInvalid`."""
    if not said:
        return ADD
    settings = dict(said)
    try:
        found = Operation(str(settings.pop("operation", "add")), **settings)  # type: ignore[arg-type]
    except (VectorInvalid, TypeError) as error:
        raise PlanInvalid(f"not the operation of a plan: {error!s:.200}") from error
    return found


class _PlanWire(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A `Plan` as it travels."""

    vectors: list[_VectorWire]
    receipt: Annotated[str, Meta(max_length=64)] = ""
    dynamic: Dynamic | None = None
    keep_norm: bool = False
    readouts: tuple[Readout, ...] = ()


_READER: Final = msgspec.json.Decoder(_PlanWire)
