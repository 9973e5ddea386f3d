"""The limits that every plan must meet, including plans that the server did not write.

An operator sets most of them. One always holds: how much a request may add. A token whose stream
overflows leaves NaN among the keys and values of the cache, which reach the next owner of its
blocks. So the sum of all additions to one element of the stream must stay far below the largest
value of the model's dtype, and below what a norm can square.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat
from typing import TYPE_CHECKING, Final, Self

from steersman.steering.plan.dynamic import MAX_PROPERTIES, Dynamic
from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.positions import is_explicit
from steersman.steering.plan.settings import Settings
from steersman.steering.plan.when.gates import check_conditions
from steersman.steering.plan.wire.readouts import check_readouts
from steersman.vectors.errors import VectorInvalid
from steersman.vectors.operation import OPERATIONS
from steersman.vectors.parts import are_rows_of
from steersman.vectors.served import switched_on
from steersman.vectors.tensors import HookPoint

if TYPE_CHECKING:
    from steersman.steering.plan.plan import Plan, PlannedVector

MAX_SCHEDULE: Final = 4096
"""Longest list of coefficients, one a token."""

STEERABLE_SITES: Final = ("resid_post", "attn_out", "mlp_out", "resid_mid")
"""Sites the engine can add at, in table order."""


@dataclass(frozen=True)
class Limits:
    """What one engine accepts. `num_layers` is the number of the model's blocks. The other fields
    are named and explained in `Settings`."""

    num_layers: int
    bank_rows: int
    max_terms: int
    max_vectors: int
    max_segments: int
    max_coefficient: float
    max_steps: int
    max_schedule_total: int
    max_plan_terms: int
    max_read_values: int
    sites: tuple[str, ...] = STEERABLE_SITES
    """Sites of this model; a block that is not a plain pre-norm one has `resid_post` only."""
    aliases: tuple[str, ...] = ()
    """Those of `sites` whose additions are made at `resid_post`."""
    operations: tuple[str, ...] = OPERATIONS
    """What vectors may do to the stream here."""
    own_sites: tuple[str, ...] = STEERABLE_SITES
    """Those of `sites` at which terms may read what is there."""
    readout_sites: tuple[str, ...] = STEERABLE_SITES
    """Sites at which the stream can be read for the client."""
    no_gates: str | None = None
    """What gates and markers are not served with here; None where they are."""
    most_added: float = math.inf
    """Most that a request may add to one element of the stream (`check_added`);
    checked where the vectors' sizes are known."""

    @property
    def most_segments(self) -> int:
        """Most table entries that one request may need."""
        return self.max_segments + self.max_steps

    @property
    def _alias_note(self) -> str:
        return f" (as do those at {', '.join(self.aliases)})" if self.aliases else ""

    @cached_property
    def _places(self) -> frozenset[HookPoint]:
        """All (site, layer) pairs of this model."""
        return frozenset(
            HookPoint(site, layer) for site in self.sites for layer in range(self.num_layers)
        )

    @cached_property
    def _added_at(self) -> dict[HookPoint, HookPoint]:
        """For each of `_places`, the hook point where its terms are added."""
        return {
            HookPoint(site, layer): HookPoint("resid_post" if site in self.aliases else site, layer)
            for site, layer in self._places
        }

    def _meetings(self, vector: "PlannedVector", *, own: bool) -> Iterable[HookPoint]:
        """The hook points where the vector's terms are added, one for each of its terms and
        columns. `own`: a term of the plan reads the stream, so each has its own."""
        points = vector.terms if own else map(self._added_at.__getitem__, vector.terms)
        return chain.from_iterable(repeat(point, vector.columns) for point in points)

    def columns(self, vector: "PlannedVector", *, own: bool = False) -> int:
        """Most terms of one vector at one hook point: more than 1 if it steers several of
        `resid_post` and its aliases in one block, or its operation takes more."""
        return max(Counter(self._meetings(vector, own=own)).values())

    @classmethod
    def of(cls, settings: Settings, num_layers: int) -> Self:
        """The limits that `settings` set."""
        return cls(
            num_layers=num_layers,
            bank_rows=settings.bank_rows,
            max_terms=settings.max_terms,
            max_vectors=settings.max_vectors,
            max_segments=settings.max_segments,
            max_coefficient=settings.max_coefficient,
            max_steps=settings.max_steps,
            max_schedule_total=settings.max_schedule_total,
            max_plan_terms=settings.max_plan_terms,
            max_read_values=settings.max_read_values,
        )

    def check_count(self, vectors: int) -> None:
        """Raise `PlanInvalid` for more vectors than a request may name."""
        if vectors > self.max_vectors:
            raise PlanInvalid(
                f"the request names {vectors} vectors, at most {self.max_vectors} are allowed "
                "(--max-vectors); name fewer",
                param="steering.vectors",
                code="too_many_terms",
            )

    def check_layer(self, layer: int, param: str) -> None:
        """Raise `PlanInvalid` for a block that the model does not have."""
        if not 0 <= layer < self.num_layers:
            raise PlanInvalid(
                f"layer {layer} does not exist; this model has layers 0..{self.num_layers - 1}",
                param=param,
                code="layer_out_of_range",
            )

    def check(
        self, plan: "Plan", prompt_tokens: int | None = None, new_tokens: int | None = None
    ) -> None:
        """Raise `PlanInvalid` if `plan` breaks a limit.

        With `prompt_tokens` given, its positions are checked against the prompt as well; its reads
        also against `new_tokens`, the most of the answer.
        """
        check_readouts(plan.readouts, self, prompt_tokens or 0, new_tokens or 0)
        if not plan.vectors and not plan.readouts:
            raise PlanInvalid(
                "steering names no vector; name at least one or leave the field out",
                param="steering.vectors",
            )
        self.check_count(len(plan.vectors))
        meetings: Counter[HookPoint] = Counter()
        together: defaultdict[str, float] = defaultdict(float)
        for n, vector in enumerate(plan.vectors):
            where = f"steering.vectors[{n}]"
            if math.isnan(vector.strongest):
                raise PlanInvalid(
                    "coefficient must be a finite number", param=f"{where}.coefficient"
                )
            # A vector may be named several times: for its limit, that is once and stronger.
            together[vector.digest] += vector.strongest
            if together[vector.digest] > self.max_coefficient:
                raise PlanInvalid(
                    f"coefficient {together[vector.digest]:g} is over this server's limit of "
                    f"{self.max_coefficient:g} (--max-coefficient); lower it",
                    param=f"{where}.coefficient",
                    code="dose_over_limit",
                )
            self._check_length(vector, where)
            if not vector.terms:
                raise PlanInvalid("no layer is named; name one", param=f"{where}.layers")
            if not self._places.issuperset(vector.terms):
                self._check_places(vector, where)
            self._check_operation(plan, vector, where)
            meetings.update(self._meetings(vector, own=plan.reads))
        if plan.conditional:
            check_conditions(plan, self)
        for (site, layer), most in meetings.most_common(1):
            if most > self.max_terms:
                raise PlanInvalid(
                    f"{most} vectors meet at {site}.{layer}{self._alias_note}, at most "
                    f"{self.max_terms} may meet there (--max-terms); name fewer vectors, or other "
                    "layers",
                    param="steering.vectors",
                    code="too_many_terms",
                )
        if (rows := plan.bank_rows) > self.bank_rows:
            raise PlanInvalid(
                f"the request needs {rows} bank rows, the bank has {self.bank_rows}; "
                "name fewer vectors or layers, or start the server with a higher --bank-rows",
                param="steering.vectors",
                code="too_many_terms",
            )
        scheduled = sum(len(vector.schedule) for vector in plan.vectors)
        if scheduled > self.max_schedule_total:
            raise PlanInvalid(
                f"the request's schedules have {scheduled} coefficients together, at most "
                f"{self.max_schedule_total} are allowed; use shorter ones, or start the server "
                "with a higher --max-schedule-total",
                param="steering.vectors",
                code="too_many_terms",
            )
        wide = sum(self.columns(v, own=plan.reads) for v in plan.vectors) if plan.varies else 0
        if wide > self.max_terms:
            raise PlanInvalid(
                f"the request has {wide} vectors, one of them with a schedule; then at most "
                f"{self.max_terms} are allowed (--max-terms); name fewer, or no schedule",
                param="steering.vectors",
                code="too_many_terms",
            )
        if plan.dynamic is not None:
            _check_dynamic(plan, plan.dynamic, self.max_coefficient)
        if prompt_tokens is not None:
            self._check_stretches(plan, prompt_tokens)

    def _check_operation(self, plan: "Plan", vector: "PlannedVector", where: str) -> None:
        """Raise `PlanInvalid` for an operation that is not done here, or not in such a plan."""
        operation = vector.operation
        if operation.name not in self.operations:
            raise PlanInvalid(
                f"the operation `{operation.name}` is not served here; this server does "
                f"{', '.join(self.operations)}",
                param=f"{where}.operation",
                code="operation_not_served",
            )
        try:
            operation.check_complete()
        except VectorInvalid as error:
            param = f"{where}.{error.param}"
            raise PlanInvalid(error.message, param=param, code=error.code) from None
        if not are_rows_of(operation.name, vector.rows):
            raise PlanInvalid(
                f"a vector for `{operation.name}` cannot have {vector.rows} rows at a hook point",
                param=where,
            )
        if not operation.adds and (vector.steps > 1 or plan.dynamic is not None):
            what = "dynamic composition" if plan.dynamic else "a vector with steps"
            raise PlanInvalid(
                f"{what} can only add, and not `{operation.name}`; leave out one of them",
                param=f"{where}.operation",
            )
        if operation.name == "replace" and not is_explicit(vector.positions):
            raise PlanInvalid(
                "the operation `replace` needs explicit positions, such as "
                '{"start": 4, "stop": 5}: at all tokens it would leave nothing of the text',
                param=f"{where}.positions",
            )
        if not plan.reads:
            return
        if plan.keep_norm and (plan.dynamic is not None or len(self.operations) == 1):
            raise PlanInvalid(
                "`keep_norm` does not go with dynamic composition; leave out one of them"
                if plan.dynamic
                else "`keep_norm` reads the stream, and this server only adds; leave it out",
                param="steering.keep_norm",
                code="not_supported" if plan.dynamic else "operation_not_served",
            )
        for site, _ in vector.terms:
            if site in self.aliases and site not in self.own_sites:
                raise PlanInvalid(
                    f"additions at {site} are made at resid_post here, which differs beside "
                    "what reads the stream; leave one of the two out, or have the "
                    "server started with --enforce-eager",
                    param=where,
                    code="site_not_supported",
                )

    def _check_places(self, vector: "PlannedVector", where: str) -> None:
        for site, layer in vector.terms:
            if site not in self.sites:
                raise PlanInvalid(
                    f"site {site!r} cannot be steered here; sites are "
                    f"{', '.join(self.sites)}{switched_on(site)}",
                    param=where,
                    code="site_not_supported",
                )
            self.check_layer(layer, f"{where}.layers")

    def _check_stretches(self, plan: "Plan", prompt_tokens: int) -> None:
        segments = plan.segments(prompt_tokens)
        if len(segments) > self.most_segments:
            raise PlanInvalid(
                "the vectors' steps start at too many different tokens; use fewer different "
                "positions, or start the server with a higher --max-segments",
                param="steering.vectors",
                code="too_many_terms",
            )
        terms = sum(len(plan.vectors[n].terms) for segment in segments for n in segment.active)
        if terms > self.max_plan_terms:
            raise PlanInvalid(
                f"the request has {terms} terms, one for each vector, layer and step or stretch of "
                f"tokens; at most {self.max_plan_terms} are allowed; name fewer, or start the "
                "server with a higher --max-plan-terms",
                param="steering.vectors",
                code="too_many_terms",
            )
        if (stretches := len(plan.layout(prompt_tokens).stretches)) > self.max_segments:
            raise PlanInvalid(
                "the position rules of the vectors cut the request into "
                f"{stretches} stretches, at most {self.max_segments} "
                "are allowed (--max-segments); use fewer different positions",
                param="steering.vectors",
                code="too_many_terms",
            )

    def _check_length(self, vector: "PlannedVector", where: str) -> None:
        if vector.steps > self.max_steps:
            raise PlanInvalid(
                f"the vector has {vector.steps} steps, at most {self.max_steps} are allowed; "
                "upload one with fewer, or start the server with a higher --max-steps",
                param=f"{where}.id",
                code="too_many_terms",
            )
        if len(vector.schedule) > MAX_SCHEDULE:
            raise PlanInvalid(
                f"the schedule lists {len(vector.schedule)} tokens, at most {MAX_SCHEDULE} are "
                "allowed, whatever the server's options; make it shorter",
                param=f"{where}.schedule",
            )


def _check_dynamic(plan: "Plan", dynamic: Dynamic, max_coefficient: float) -> None:
    dynamic.check(len(plan.vectors))
    if len(plan.vectors) > MAX_PROPERTIES:
        raise PlanInvalid(
            f"the request names {len(plan.vectors)} vectors, at most {MAX_PROPERTIES} can be "
            "composed dynamically, whatever the server's options; name fewer",
            param="steering.vectors",
            code="too_many_terms",
        )
    for n, vector in enumerate(plan.vectors):
        where, start = f"steering.vectors[{n}]", dynamic.start_of(n)
        if start > max_coefficient:
            owner = "steering" if start == dynamic.start else where
            raise PlanInvalid(
                f"start {start:g} is over this server's limit of {max_coefficient:g} "
                "(--max-coefficient); lower it",
                param=f"{owner}.dynamic.start",
                code="dose_over_limit",
            )
        if vector.schedule:
            raise PlanInvalid(
                "a schedule is for static requests; leave out the schedule, or `dynamic`",
                param=f"{where}.schedule",
            )
        if vector.positions != "generation":
            raise PlanInvalid(
                "dynamic composition steers the tokens of `generation`; leave positions out",
                param=f"{where}.positions",
            )
        if vector.coefficient < 0:
            raise PlanInvalid(
                "with `dynamic`, the coefficient is the most that the vector may get, and must be "
                "0 or more",
                param=f"{where}.coefficient",
            )


# How much may be added

_LARGEST: Final = {"float16": 65504.0, "bfloat16": 3.38e38, "float32": 3.40e38}
_NORM: Final = 2.0**50
"""A norm squares the stream in float32 and sums it: 2^50 squared, times 2^20 dimensions, is 2^120.
"""


def largest_addition(dtype: str) -> float:
    """The most that one request may add to one element of the stream, summed over its vectors and
    hook points: a quarter of the largest value of the model's `dtype` (such as "float16"), at most
    2^50. Raises KeyError for a dtype that no model runs in."""
    return min(_LARGEST[dtype] / 4, _NORM)


def most_added(plan: "Plan", elements: Sequence[float]) -> float:
    """The most that `plan` adds to one element of the stream at any token.

    `elements`: for each vector of the plan, the largest absolute element of its tensor at each hook
    point (over all steps), summed over its hook points. What an operation does with the stream
    itself is not in it: it has no bound in advance.
    """
    total = 0.0
    for n, (vector, size) in enumerate(zip(plan.vectors, elements, strict=True)):
        start = 0.0 if plan.dynamic is None else plan.dynamic.start_of(n)
        # Of two factors, one at 0 and one not finite, the product is not a number: that is over.
        total += max(vector.strongest, start) * _factor(vector) * size
    return total


def _factor(vector: "PlannedVector") -> float:
    """What multiplies a vector's elements, beside its coefficient, in what its operation puts into
    the stream."""
    match vector.operation.name:
        case "add" | "replace" | "transport":
            return 1.0
        case "feature":
            return abs(vector.operation.value or 0.0)
    return 0.0


def check_added(plan: "Plan", elements: Sequence[float], most: float) -> None:
    """Raise `PlanInvalid` if `plan` adds more than `most` to one element of the stream. Arguments
    as for `most_added`."""
    added = most_added(plan, elements)
    if not added <= most:
        raise PlanInvalid(
            f"the vectors add up to {added:.3g} in one element of the residual stream, over the "
            f"{most:.3g} that this model's dtype bears; lower the coefficients, or use vectors of "
            "a norm like the stream's",
            param="steering.vectors",
            code="addition_too_large",
        )
