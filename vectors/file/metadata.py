"""The metadata of a file: one JSON object under the metadata key `steersman`.

Every field is optional. Unknown fields are errors: a misspelt `coefficient` must not pass in
silence as 1. What is accepted can be written again, sent as JSON, and stays small in memory.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any, Final, NoReturn

from steersman.vectors.defaults import check_number, check_positions, check_safe_range
from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.file.header import no_duplicates
from steersman.vectors.library.names import check_name
from steersman.vectors.tensors import parse_tensor_name
from steersman.vectors.vector import BaseModel, SteeringVector

METADATA_KEY: Final = "steersman"
FORMAT_VERSION: Final = 1
MAX_DESCRIPTION: Final = 4096
MAX_METADATA_BYTES: Final = 64 << 10
"""Largest metadata of a new file, as UTF-8, without the fields that a PATCH may change: those have
limits of their own, so what an upload may have a PATCH may keep."""
MAX_DEPTH: Final = 64
"""Lists and objects within each other in the metadata; JSON writers give up far below 1,000."""
_CHANGED_BY_PATCH: Final = ("description", "coefficient", "layers", "positions", "safe_range")


def parse_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Fields for `SteeringVector(tensors, **fields)`; raises `VectorInvalid` naming the field.

    Other tools' keys in `metadata` are left alone.
    """
    text = metadata.get(METADATA_KEY)
    if text is None:
        return {}
    try:
        given = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=no_duplicates)
    except VectorInvalid:
        raise
    except (ValueError, RecursionError):
        raise _bad(METADATA_KEY, "is not valid JSON") from None
    if not isinstance(given, dict):
        raise _bad(METADATA_KEY, "must be a JSON object")
    _check_plain(given)
    version = given.pop("format_version", FORMAT_VERSION)
    if type(version) is not int or version != FORMAT_VERSION:
        raise VectorInvalid(
            f"format_version {shown(version)} is not known here; this server reads version "
            f"{FORMAT_VERSION}: upgrade it, or save the vector in that version",
            param="format_version",
            code="unknown_format_version",
        )
    for name in given:
        if name not in READERS:
            raise _bad(name, f"is not a field of a vector; fields are {', '.join(READERS)}")
    return {name: READERS[name](name, value) for name, value in given.items() if value is not None}


def metadata_text(vector: SteeringVector) -> str:
    """The JSON that `parse_metadata` reads back; the same for the same fields.

    Raises `VectorInvalid` if it cannot be written, or is over `MAX_METADATA_BYTES`.
    """
    present = _present(vector)
    check_metadata_size(vector)
    return json.dumps(present, sort_keys=True, allow_nan=False)


def check_metadata_size(vector: SteeringVector) -> None:
    """Raise `VectorInvalid` if the metadata of `vector` cannot be written, or is over
    `MAX_METADATA_BYTES`: the same measure for an upload and for a change."""
    kept = {name: v for name, v in _present(vector).items() if name not in _CHANGED_BY_PATCH}
    try:
        text = json.dumps(kept, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise _bad("method_settings", f"cannot be written as JSON: {error}") from error
    if size > MAX_METADATA_BYTES:
        longest = max(kept, key=lambda name: len(json.dumps(kept[name])))
        raise metadata_too_large(size, longest)


def metadata_too_large(size: int, param: str) -> VectorInvalid:
    """The error for metadata of `size` bytes, most of them in `param`."""
    return VectorInvalid(
        f"the metadata has {size} bytes, at most {MAX_METADATA_BYTES} fit; shorten {param}",
        param=param,
        code="metadata_too_large",
    )


def _present(vector: SteeringVector) -> dict[str, Any]:
    """The fields of `vector` that are worth a place in its file, as JSON has them."""
    values = {name: getattr(vector, name) for name in READERS}
    values |= {
        "description": vector.description or None,
        "method_settings": dict(vector.method_settings) or None,
        "base_model": asdict(vector.base_model) if vector.base_model else None,
        "norms": dict(vector.norms) or None,
    }
    present = {name: value for name, value in values.items() if value is not None}
    return {"format_version": FORMAT_VERSION, **present}


def check_description(value: object) -> str:
    """`value` as a description; raises `VectorInvalid`."""
    text = _text("description", value)
    if len(text) > MAX_DESCRIPTION:
        raise _bad("description", f"has {len(text)} characters, at most {MAX_DESCRIPTION} fit")
    return text


def _bad(field: str, reason: str) -> VectorInvalid:
    return VectorInvalid(f"metadata field {shown(field)} {reason}", param=field[:128],
                         code="bad_metadata")  # fmt: skip


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


def _check_plain(given: dict[str, Any]) -> None:
    """Raise `VectorInvalid` for what JSON allows and an answer cannot hold: half of a surrogate
    pair, anywhere, and objects within objects without end."""
    level: list[Any] = [given]
    for _ in range(MAX_DEPTH):
        level = [
            part
            for one in level
            for part in (one.values() if isinstance(one, dict) else one)
            if isinstance(part, dict | list)
        ]
        if not level:
            break
    else:
        raise _bad(METADATA_KEY, f"nests lists and objects more than {MAX_DEPTH} deep")
    for field, value in given.items():
        try:
            json.dumps({field: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _bad(field, "is not valid Unicode") from None


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise _bad(field, f"must be a string, not {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _bad(field, "is not valid Unicode") from None
    return value


def _short_text(field: str, value: object) -> str:
    text = _text(field, value)
    if len(text) > 256:
        raise _bad(field, f"has {len(text)} characters, at most 256 fit")
    return text


def _object(field: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(field, f"must be an object, not {shown(value)}")
    return value


def _settings(field: str, value: object) -> dict[str, Any]:
    settings = _object(field, value)
    try:
        # JSON has 1e999, of which Python makes an infinity, which no JSON can say.
        json.dumps(settings, allow_nan=False)
    except ValueError:
        raise _bad(field, "holds a number that is not finite") from None
    return settings


def _count(field: str, value: object) -> int:
    if type(value) is not int or not 0 < value < 2**31:
        raise _bad(field, f"must be a positive whole number, not {shown(value)}")
    return value


def read_base_model(field: str, value: object) -> BaseModel:
    """`value` as the model a vector was made on; raises `VectorInvalid` naming `field`."""
    given = _object(field, value)
    known = {f.name for f in fields(BaseModel)}
    for name in given:
        if name not in known:
            raise _bad(f"{field}.{name}", f"is not known; use {', '.join(sorted(known))}")
    present = {name: part for name, part in given.items() if part is not None}
    texts = {
        name: _short_text(f"{field}.{name}", present[name])
        for name in ("id", "fingerprint")
        if name in present
    }
    counts = {
        name: _count(f"{field}.{name}", present[name])
        for name in ("hidden_size", "num_layers")
        if name in present
    }
    return BaseModel(
        id=texts.get("id"),
        hidden_size=counts.get("hidden_size"),
        num_layers=counts.get("num_layers"),
        fingerprint=texts.get("fingerprint"),
    )


def _layers(field: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(n) is int for n in value):
        raise _bad(field, f"must be a list of block indices, not {shown(value)}")
    return tuple(value)


def _norms(field: str, value: object) -> dict[str, float]:
    norms = {}
    for name, norm in _object(field, value).items():
        parse_tensor_name(name)
        norms[name] = check_number(norm, f"{field}.{name}")
    return norms


def _time(field: str, value: object) -> str:
    text = _short_text(field, value)
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise _bad(field, f"must be a time in ISO 8601, not {shown(text)}") from None
    return text


READERS: Final[dict[str, Callable[[str, object], Any]]] = {
    "name": lambda field, value: check_name(_text(field, value)),
    "description": lambda _, value: check_description(value),
    "method": _short_text,
    "method_settings": _settings,
    "base_model": read_base_model,
    "coefficient": lambda field, value: check_number(value, field),
    "layers": _layers,
    "positions": lambda _, value: check_positions(value),
    "safe_range": lambda _, value: check_safe_range(value),
    "norms": _norms,
    "licence": _short_text,
    "created_at": _time,
}
"""Every field of a `SteeringVector` but its tensors, and what checks the value in a file."""
