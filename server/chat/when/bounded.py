"""What all objects of the `steering` field share."""

import math
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, model_validator

from steersman.steering.plan.plan import as_float32

_MAX_KEYS: Final = 32
"""Of an object whose known keys are fewer: each that is not known would be an error of its own."""


class Bounded(BaseModel):
    """An object that is refused at once if it has many more keys than a valid one."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > _MAX_KEYS:
            raise ValueError(f"has {len(data)} keys, of which most are unknown")
        return data


def is_finite(value: Any) -> bool:
    """Whether `value` is a finite number that the engine's float32 can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(as_float32(float(value)))
    except OverflowError:
        return False


def finite_setting(value: float | None) -> float | None:
    """`value`. Raises ValueError for a number that is not finite."""
    if value is not None and not is_finite(value):
        raise ValueError("must be a finite number")
    return value
