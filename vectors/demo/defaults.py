"""What `tools/demo/vectors.py` measured: each vector's layers, coefficient and safe range."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal, get_args

from steersman.vectors.errors import DemoError

Read = Literal["last", "mean"]
"""Where a text is read: at its last token, or as the mean over its tokens."""
READS: tuple[Read, ...] = get_args(Read)


@dataclass(frozen=True)
class DemoDefaults:
    """Defaults of one demo vector. `unit_dose`: the relative dose of coefficient 1 at each of its
    layers."""

    read: Read
    layers: tuple[int, ...]
    unit_dose: float
    coefficient: float
    safe_range: tuple[float, float]


def load_defaults() -> dict[str, DemoDefaults]:
    """The measured defaults, by vector; raises `DemoError` if the package's file is broken."""
    file = resources.files("steersman.vectors.demo") / "defaults.json"
    try:
        given = json.loads(file.read_text(encoding="utf-8"))["vectors"]
        return {name: _parse(fields) for name, fields in sorted(given.items())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise DemoError(f"defaults.json is broken ({error!r}): reinstall steersman") from error


def _parse(fields: Mapping[str, object]) -> DemoDefaults:
    layers, safe_range = fields["layers"], fields["safe_range"]
    if not isinstance(layers, list) or not isinstance(safe_range, list):
        raise TypeError("layers and safe_range are lists")
    read = next(known for known in READS if known == fields["read"])
    low, high = map(float, safe_range)
    return DemoDefaults(
        read=read,
        layers=tuple(map(int, layers)),
        unit_dose=float(str(fields["unit_dose"])),
        coefficient=float(str(fields["coefficient"])),
        safe_range=(low, high),
    )
