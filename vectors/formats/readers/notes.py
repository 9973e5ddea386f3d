"""Reads the notes beside the tensors of a `.pt` or a `.npz`: `{"vector": v, "layer": 14}`.

Keys for the vector's place are read, keys that only describe the vector are ignored, and all others
are refused by name, because they may change what the vector does.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.file.glp import HOOK_POINTS
from steersman.vectors.file.operation import DESCRIBES, check_operations, names_making
from steersman.vectors.hook_names import parse_hook_name
from steersman.vectors.tensors import SITES

LAYER_KEY: Final = re.compile(
    r"(?:layer|block)(?:s|_?(?:ids?|idx|idxs|index|indices|nums?|numbers?))?", re.ASCII
)
_SITE_KEY: Final = re.compile(
    r"site|hook(?:_?(?:point|name))?|module(?:_name)?|location|place|component|act_name"
)
_COEFFICIENT_KEY: Final = re.compile(r"coeff?|coefficient|alpha|strength|multiplier|scale")
_READING: Final = re.compile(
    r"pos|position|token|token_(?:pos|position|idx|index)|dtype|shape|d_model|dim|norms?|loss"
    r"|accuracy|auc|auroc|explained_variances?|variance|(?:n|num|number)_.+|prompts?|examples?"
    r"|positive.*|negative.*|(?:format_)?version|format|id|score|behaviou?r|layers?_count"
)
"""Keys of how a vector was made and how well."""


@dataclass(frozen=True)
class Notes:
    """The place of a vector: blocks, a site, a default coefficient; None for what is not given."""

    layers: tuple[int, ...] | None = None
    site: str | None = None
    coefficient: float | None = None


def split_notes(given: Mapping[Any, Any], is_place: Any) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Divide `given` into tensors, which are not checked here, and the notes beside them.

    `is_place(key)` is true if a key is the place of a tensor.
    """
    tensors: dict[Any, Any] = {}
    notes: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(key, str) and not is_place(key) and _is_note(key, value):
            notes[key] = value.tolist() if isinstance(value, torch.Tensor) else value
        else:
            tensors[key] = value
    return tensors, notes


def read_notes(said: Mapping[str, Any]) -> Notes:
    """`said` as places and a coefficient. Raises `VectorInvalid`, whose `param` is the key, for an
    unknown key or a value that is not a place."""
    check_operations(said)
    layers: tuple[int, ...] | None = None
    site: str | None = None
    coefficient: float | None = None
    for key, value in said.items():
        name = key.strip().lower().replace("-", "_")
        if value is None or DESCRIBES.fullmatch(name) or _READING.fullmatch(name):
            continue
        if LAYER_KEY.fullmatch(name):
            layers = _same(key, layers, _layers(key, value))
        elif _SITE_KEY.fullmatch(name):
            where, layer = _site(key, value)
            site = _same(key, site, where)
            layers = layers if layer is None else _same(key, layers, (layer,))
        elif _COEFFICIENT_KEY.fullmatch(name):
            coefficient = _same(key, coefficient, _number(key, value))
        elif not names_making(name):
            raise _bad(
                key,
                f"is {shown(value)}, is not known here, and may change what the vector does; leave "
                "it out if it only describes the vector",
            )
    return Notes(layers, site, coefficient)


def _is_note(key: str, value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        whole = not (value.is_floating_point() or value.is_complex())
        is_layers = whole and value.dim() <= 1 and LAYER_KEY.fullmatch(key.lower()) is not None
        return is_layers or (value.dim() == 0 and value.layout is torch.strided)
    if isinstance(value, list | tuple):
        return not any(isinstance(one, torch.Tensor | Mapping | list | tuple) for one in value)
    if isinstance(value, Mapping):
        return bool(value) and not any(
            isinstance(one, torch.Tensor | Mapping | list | tuple) for one in value.values()
        )
    return value is None or isinstance(value, str | int | float)


def _layers(key: str, value: Any) -> tuple[int, ...]:
    listed = value if isinstance(value, list | tuple) else (value,)
    numbers = []
    for one in listed:
        plain = int(one) if isinstance(one, str) and re.fullmatch(r"[0-9]{1,4}", one) else one
        if type(plain) is not int or not 0 <= plain <= 9999:
            raise _bad(key, f"is {shown(value)}, and must be one or more block numbers from 0")
        numbers.append(plain)
    if not numbers or len(set(numbers)) < len(numbers):
        raise _bad(key, f"is {shown(value)}, and must be block numbers, each once")
    return tuple(numbers)


def _site(key: str, value: Any) -> tuple[str, int | None]:
    text = value.strip() if isinstance(value, str) else ""
    site = HOOK_POINTS.get(text, text.removeprefix("hook_"))
    if site in SITES:
        return site, None
    if place := parse_hook_name(text):
        return place
    raise _bad(
        key, f"is {shown(value)}, which is not a known place; known are {', '.join(SITES)}, and "
        "hook names such as 'blocks.14.hook_resid_post'",
    )  # fmt: skip


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _bad(key, f"is {shown(value)}, and must be a finite number")
    return float(value)


def _same(key: str, before: Any, now: Any) -> Any:
    if before is not None and before != now:
        raise _bad(
            key,
            f"is {shown(now)}, and another key for the same is {shown(before)}; keep one of them",
        )
    return now


def _bad(key: str, reason: str) -> VectorInvalid:
    return VectorInvalid(
        f"the file's entry {shown(key)} {reason}", param=key[:128], code="unknown_layout"
    )
