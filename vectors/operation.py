"""What a vector does to the stream h at its hook point, and the settings of that.

| operation | h becomes | settings |
| --- | --- | --- |
| add | h + c v | |
| project | h - c (h.u) u, u = v / norm(v) | |
| clamp | h + c (clip(p, min, max) - p) u, p = h.u | min, max, unit |
| feature | h + c (t - f) d, f = act(e.h + b) | value (t) or multiply (t = multiply f) |
| transport | (1-c) h + c (w h + b), element by element, where low < h < high | |
| rotate | turned by `angle` degrees in the plane of b1 and b2 | angle, adaptive |
| replace | (1-c) h + c v | |

c is the coefficient. `steersman.vectors.parts` has the tensors that each of them needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self, get_args

from steersman.vectors.defaults import check_number
from steersman.vectors.errors import VectorInvalid, shown

OperationName = Literal["add", "project", "clamp", "feature", "transport", "rotate", "replace"]
OPERATIONS: Final[tuple[OperationName, ...]] = get_args(OperationName)
Unit = Literal["stream", "median_norm"]
UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
_SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "clamp": ("min", "max", "unit"),
    "feature": ("value", "multiply"),
    "rotate": ("angle", "adaptive"),
}
SETTINGS: Final = tuple(name for names in _SETTINGS.values() for name in names)
"""Keys that belong to one operation each, in files and in requests."""
_NUMBERS: Final = ("min", "max", "value", "multiply", "angle")


@dataclass(frozen=True)
class Operation:
    """An operation and its settings; a setting of None is left out. Raises `VectorInvalid`, whose
    `param` is the setting, for those that do not go together.

    >>> Operation("clamp", max=2.0).settings
    {'max': 2.0}
    """

    name: str = "add"
    min: float | None = None
    """`clamp`: the least that the stream has along the direction; in `unit`."""
    max: float | None = None
    unit: str | None = None
    """Of `min` and `max`: "stream", its own units (also if left out), or "median_norm", the median
    norm of the stream at that layer."""
    value: float | None = None
    """`feature`: what its activation becomes."""
    multiply: float | None = None
    """`feature`: what its activation is multiplied by."""
    angle: float | None = None
    """`rotate`: degrees, from b1 to b2."""
    adaptive: bool | None = None
    """`rotate`: only where h.b1 > 0."""

    def __post_init__(self) -> None:
        if self.name not in OPERATIONS:
            raise VectorInvalid(
                f"{shown(self.name)} is not an operation; operations are {', '.join(OPERATIONS)}",
                param="operation",
                code="unknown_operation",
            )
        for key in SETTINGS:
            value = getattr(self, key)
            if value is None:
                continue
            if key not in _SETTINGS.get(self.name, ()):
                owner = next(name for name, keys in _SETTINGS.items() if key in keys)
                raise _bad(
                    key,
                    f"`{key}` belongs to the operation `{owner}`, and this one is `{self.name}`; "
                    "leave it out",
                )
            if key in _NUMBERS:
                # `object.__setattr__` is how a frozen dataclass puts fields in canonical form.
                object.__setattr__(self, key, check_number(value, key))
        if self.unit is not None and self.unit not in UNITS:
            raise _bad("unit", f"unit must be one of {', '.join(UNITS)}, not {shown(self.unit)}")
        if self.adaptive is not None and not isinstance(self.adaptive, bool):
            raise _bad("adaptive", "adaptive must be true or false")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise _bad("min", f"min ({self.min:g}) is over max ({self.max:g}); swap them")
        if self.value is not None and self.multiply is not None:
            raise _bad("multiply", "give `value` or `multiply`, not both")

    @property
    def adds(self) -> bool:
        """Whether it adds, whatever the stream is."""
        return self.name == "add"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that are there, by name."""
        found = {key: getattr(self, key) for key in _SETTINGS.get(self.name, ())}
        return {key: value for key, value in found.items() if value is not None}

    def said(self) -> dict[str, Any]:
        """The operation and its settings as files, digests and receipts have them: {} for `add`,
        which is the default everywhere."""
        return {} if self.adds else {"operation": self.name, **self.settings}

    def check_complete(self) -> None:
        """Raise `VectorInvalid` if a setting is missing without which it cannot be done. A file may
        leave it to the request."""
        if self.name == "clamp" and self.min is None and self.max is None:
            raise _bad("min", "the operation `clamp` needs `min`, `max` or both", "missing_field")
        if self.name == "feature" and self.value is None and self.multiply is None:
            message = "the operation `feature` needs `value` or `multiply`"
            raise _bad("value", message, "missing_field")
        if self.name == "rotate" and self.angle is None:
            raise _bad("angle", "the operation `rotate` needs `angle`, in degrees", "missing_field")

    def used_as(self, name: str | None, settings: Mapping[str, Any]) -> Self:
        """The operation of a use that names `name` (None: this one) and `settings`, those of None
        left out. It keeps the settings of this one if it is the same operation. Raises
        `VectorInvalid`."""
        given = {key: value for key, value in settings.items() if value is not None}
        if name is not None and name != self.name:
            return type(self)(name, **given)
        instead = {"value": "multiply", "multiply": "value"}
        dropped: dict[str, Any] = {
            instead[key]: None for key in given if key in instead and instead[key] not in given
        }
        return replace(self, **dropped, **given)


ADD: Final = Operation()


def _bad(param: str, message: str, code: str = "invalid_operation") -> VectorInvalid:
    return VectorInvalid(message, param=param, code=code)
