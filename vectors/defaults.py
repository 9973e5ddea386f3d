"""The fields of a vector that change what it does: coefficient, layers, positions."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Final, cast

from steersman.vectors.errors import VectorInvalid, shown

POSITION_RULES: Final = ("generation", "after_prompt", "prompt", "all")
Positions = str | dict[str, int]
"""A name out of `POSITION_RULES`, or `{"start": s, "stop": e}`: s <= t < e, negative from the
prompt's end."""

_FLOAT32_MAX: Final = 3.4028234663852886e38
_INDEX_LIMIT: Final = 2**31 - 1


def check_number(value: object, param: str) -> float:
    """`value` as a finite float that fits float32; raises `VectorInvalid` naming `param`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise VectorInvalid(f"{param} must be a number, not {shown(value)}", param=param)
    # An int may be too large for a float: compare before converting.
    if not (-_FLOAT32_MAX <= value <= _FLOAT32_MAX) or not math.isfinite(value):
        raise VectorInvalid(
            f"{param} must be a finite number within float32, not {shown(value)}", param=param
        )
    return float(value) + 0.0  # -0.0 and 0.0 are one coefficient


def check_layers(value: object, available: Collection[int]) -> tuple[int, ...]:
    """`value` as ascending layers out of `available`; raises `VectorInvalid`."""
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
        raise VectorInvalid(
            f"layers must be a list of block indices, not {shown(value)}", param="layers"
        )
    layers = list(cast("Iterable[object]", value))
    for layer in layers:
        if isinstance(layer, bool) or not isinstance(layer, int):
            raise VectorInvalid(f"layers must be whole numbers, not {shown(layer)}", param="layers")
        if layer not in available:
            raise VectorInvalid(
                f"layer {shown(layer)} is not in this vector; it has "
                f"{', '.join(map(str, sorted(available)))}",
                param="layers",
                code="layer_not_in_vector",
            )
    if not layers:
        raise VectorInvalid("layers is empty; name at least one, or leave it out", param="layers")
    return tuple(sorted(set(cast("list[int]", layers))))


def check_positions(value: object) -> Positions:
    """`value` in its canonical form; raises `VectorInvalid`."""
    if isinstance(value, str) and value in POSITION_RULES:
        return value
    if isinstance(value, Mapping) and set(value) == {"start", "stop"}:
        start, stop = value["start"], value["stop"]
        if _is_index(start) and _is_index(stop):
            if start >= stop and (start < 0) == (stop < 0):
                raise VectorInvalid(
                    f"positions {start}..{stop} hold no token; stop must lie after start",
                    param="positions",
                )
            return {"start": start, "stop": stop}
    raise VectorInvalid(
        f"positions must be one of {', '.join(POSITION_RULES)}, or an object with exactly the "
        f'integers "start" and "stop", not {shown(value)}',
        param="positions",
    )


def check_safe_range(value: object) -> tuple[float, float]:
    """`value` as (lowest, highest) safe coefficient; raises `VectorInvalid`."""
    if isinstance(value, list | tuple) and len(value) == 2:
        low, high = (check_number(part, "safe_range") for part in value)
        if low <= high:
            return low, high
    raise VectorInvalid(
        f"safe_range must be [lowest, highest] coefficient, not {shown(value)}", param="safe_range"
    )


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _INDEX_LIMIT
