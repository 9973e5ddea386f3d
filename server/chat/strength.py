"""How strongly each use of a vector steers, token by token.

Combines the keys of one use with those of the whole field, and compares the result with the
vector's safe range.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from steersman.server.chat.field import DynamicComposition, SteeringField, VectorUse
from steersman.steering.plan import PlanInvalid, PlannedVector
from steersman.steering.plan.plan import as_float32
from steersman.vectors.library.library import Entry
from steersman.vectors.tensors import HookPoint

_SLACK: Final = 1e-6
"""Of a bound: coefficients are rounded to float32; ranges are not."""


@dataclass(frozen=True)
class Strength:
    """The strength of one use of a vector."""

    coefficient: float
    """Of a list, the largest in size; of a dynamic request, the most that it may be."""
    schedule: tuple[float, ...]
    hold: bool
    param: str
    """The key that sets it, which an error about the dose names."""
    said: dict[str, Any]
    """What the receipt repeats of it."""


def strength(
    field: SteeringField, n: int, use: VectorUse, default: float, steps: int | None
) -> Strength:
    """The strength of use number `n` in `field`. `default`: the vector's own coefficient; `steps`:
    its number of steps, None for one tensor for all tokens. Raises `PlanInvalid` for keys that
    contradict each other."""
    where = f"steering.vectors[{n}]"
    schedule, owner = field.schedule, "steering"
    if use.schedule is not None:
        schedule, owner = use.schedule, where
    if field.dynamic is not None and schedule is not None:
        raise PlanInvalid(
            "a schedule is for static requests; leave out the schedule, or `dynamic`",
            param=f"{owner}.schedule",
        )
    if field.dynamic is None and use.dynamic is not None:
        raise PlanInvalid(
            "this overrides the request's `dynamic`, which is not there; add "
            '`"dynamic": {}` beside `vectors`, or leave it out',
            param=f"{where}.dynamic",
        )
    over = _over(field, use, schedule, where, owner)
    after = _after(field, use, schedule, where, steps)
    varied = None if schedule == "constant" else schedule
    said = {"schedule": varied, "over": over, "steps": steps, "after": after}
    said = {key: value for key, value in said.items() if value is not None}
    hold, param = after == "hold", f"{where}.coefficient"
    # The engine has one row for a vector of one step: that it stops behind it, a schedule says.
    once = steps == 1 and not hold
    if field.dynamic is not None:
        if once:
            raise PlanInvalid(
                "the vector has one step, so there is one token to compose; send "
                '`"after": "hold"` to continue with that step, or upload the tensors as [hidden]',
                param=f"{where}.after",
            )
        return _cap(field.dynamic, use, hold, where, said)
    if isinstance(schedule, list):
        if use.coefficient is not None:
            raise PlanInvalid(
                "the schedule lists the coefficients; leave `coefficient` out, or the schedule",
                param=param,
            )
        listed = tuple(as_float32(c) for c in (schedule[:1] if once else schedule))
        return Strength(max(listed, key=abs), listed, hold, f"{owner}.schedule", said)
    coefficient = default if use.coefficient is None else use.coefficient
    expanded = _expanded("start" if once else schedule, coefficient, over)
    return Strength(as_float32(coefficient), expanded, hold, param, said)


def check_shared(field: SteeringField, strengths: list[Strength]) -> None:
    """Raise `PlanInvalid` for a key of the whole field that has no effect on any of its vectors."""
    if field.over is not None and not any("over" in one.said for one in strengths):
        raise PlanInvalid(_NO_OVER, param="steering.over")
    if field.after is not None and not any("after" in one.said for one in strengths):
        raise PlanInvalid(_NO_AFTER, param="steering.after")


_NO_OVER = '`over` goes with the schedule "diminishing"; leave it out'
_NO_AFTER = (
    "`after` says what comes behind the last step of a vector that has steps, or behind the last "
    "of a list of coefficients; this request has neither: leave it out"
)


def _over(
    field: SteeringField, use: VectorUse, schedule: Any, where: str, owner: str
) -> int | None:
    if schedule != "diminishing":
        if use.over is not None:
            raise PlanInvalid(_NO_OVER, param=f"{where}.over")
        return None
    over = field.over if use.over is None else use.over
    if over is None:
        raise PlanInvalid(
            'the schedule "diminishing" needs `over`, how many tokens it takes to come to 0',
            param=f"{owner}.over",
            code="missing_field",
        )
    return over


def _after(
    field: SteeringField, use: VectorUse, schedule: Any, where: str, steps: int | None
) -> str | None:
    """What comes after the last step or coefficient; None where neither ends."""
    if steps is None and not isinstance(schedule, list):
        if use.after is not None:
            raise PlanInvalid(_NO_AFTER, param=f"{where}.after")
        return None
    after = use.after or field.after or "stop"
    if after == "hold" and schedule in ("start", "diminishing"):
        owner = "steering" if use.after is None else where
        raise PlanInvalid(
            f'the schedule "{schedule}" comes to an end, so there is nothing to hold; use "stop"',
            param=f"{owner}.after",
        )
    return after


def _cap(
    dynamic: DynamicComposition, use: VectorUse, hold: bool, where: str, said: dict[str, Any]
) -> Strength:
    param, own = f"{where}.coefficient", use.dynamic.max if use.dynamic else None
    if own is not None:
        if use.coefficient is not None:
            raise PlanInvalid(
                "`coefficient` is the most that the vector may get, as `dynamic.max` is; give one "
                "of them",
                param=param,
            )
        return Strength(as_float32(own), (), hold, f"{where}.dynamic.max", said)
    if use.coefficient is None:
        return Strength(as_float32(dynamic.max), (), hold, "steering.dynamic.max", said)
    return Strength(as_float32(use.coefficient), (), hold, param, said)


def _expanded(schedule: str | None, coefficient: float, over: int | None) -> tuple[float, ...]:
    if schedule == "start":
        return (as_float32(coefficient),)
    if over is not None:
        return tuple(as_float32(coefficient * (1 - i / over)) for i in range(over))
    return ()


def outside_safe_ranges(
    entries: Sequence[Entry], vectors: Sequence[PlannedVector]
) -> list[bool | None]:
    """For each use of a vector in a request, whether it lies outside the vector's `safe_range`;
    None for a vector without one.

    Every coefficient of a schedule counts; for a dynamic request its maximum counts. A coefficient
    of 0 has no effect and is in every range. Uses of the same content at one hook point are added
    up, the positive and the negative ones separately.
    """
    together: defaultdict[tuple[str, HookPoint], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for vector in vectors:
        given = vector.schedule or (vector.coefficient,)
        for key in vector.terms:
            sums = together[vector.digest, key]
            sums[0] += min(0.0, *given)
            sums[1] += max(0.0, *given)
    found: list[bool | None] = []
    for entry, vector in zip(entries, vectors, strict=True):
        if entry.safe_range is None:
            found.append(None)
            continue
        low, high = entry.safe_range
        sums_of = [together[vector.digest, key] for key in vector.terms]
        given = vector.schedule or (vector.coefficient,)
        found.append(
            any(c != 0.0 and not _low(low) <= c <= _high(high) for c in given)
            or any(negative < min(0.0, _low(low)) for negative, _ in sums_of)
            or any(positive > max(0.0, _high(high)) for _, positive in sums_of)
        )
    return found


def _low(value: float) -> float:
    return value - abs(value) * _SLACK


def _high(value: float) -> float:
    return value + abs(value) * _SLACK
