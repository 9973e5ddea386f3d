"""The metadata of a file: one JSON object under the metadata key `steersman`.

Every field is optional. Unknown fields are errors: a misspelt `coefficient` must not silently count
as 1. Whatever is accepted can be written again, sent as JSON, and stays small in memory.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Final, NoReturn, TypeVar

import pydantic
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter

from steersman.vectors.defaults import check_number, check_positions, check_safe_range
from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.file.header import no_duplicates
from steersman.vectors.library.names import check_name
from steersman.vectors.operation import SETTINGS, Operation
from steersman.vectors.tensors import parse_tensor_name
from steersman.vectors.validation import first_problem, path_of_key
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


def _finite(settings: dict[str, Any]) -> dict[str, Any]:
    try:
        # JSON has 1e999, of which Python makes an infinity, which no JSON can say.
        json.dumps(settings, allow_nan=False)
    except ValueError:
        raise ValueError("holds a number that is not finite") from None
    return settings


def _coefficient(value: object) -> float:
    return check_number(value, "coefficient")


def _norms(norms: dict[str, Any]) -> dict[str, float]:
    for name in norms:
        parse_tensor_name(name)
    return {name: check_number(norm, f"norms.{name}") for name, norm in norms.items()}


def _time(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a time in ISO 8601") from None
    return text


ShortText = Annotated[str, Field(max_length=256)]
Description = Annotated[str, Field(max_length=MAX_DESCRIPTION)]
Count = Annotated[int, Field(gt=0, lt=2**31)]
Number = Annotated[float | None, Field(allow_inf_nan=False)]


class _Strict(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class BaseModelFields(_Strict):
    """The field `base_model`: the model a vector was made on."""

    id: ShortText | None = None
    hidden_size: Count | None = None
    num_layers: Count | None = None
    fingerprint: ShortText | None = None


class Metadata(_Strict):
    """Every field of a `SteeringVector` except its tensors, in the form of the file. Null fields
    are left out."""

    name: Annotated[str, AfterValidator(check_name)] | None = None
    description: Description | None = None
    method: ShortText | None = None
    method_settings: Annotated[dict[str, Any], AfterValidator(_finite)] | None = None
    base_model: BaseModelFields | None = None
    coefficient: Annotated[Any, BeforeValidator(_coefficient)] = None
    layers: Annotated[list[int], Field(min_length=1)] | None = None
    positions: Annotated[Any, BeforeValidator(check_positions)] = None
    safe_range: Annotated[Any, BeforeValidator(check_safe_range)] = None
    norms: Annotated[dict[str, Any], AfterValidator(_norms)] | None = None
    licence: ShortText | None = None
    operation: ShortText | None = None
    min: Number = None
    max: Number = None
    unit: ShortText | None = None
    value: Number = None
    multiply: Number = None
    angle: Number = None
    adaptive: bool | None = None
    created_at: Annotated[ShortText, AfterValidator(_time)] | None = None


T = TypeVar("T")
_METADATA: Final = TypeAdapter(Metadata)
_BASE_MODEL: Final = TypeAdapter(BaseModelFields)
_DESCRIPTION: Final[TypeAdapter[str]] = TypeAdapter(Description)


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
    present = {name: value for name, value in given.items() if value is not None}
    found = _read(_METADATA, present)
    said = {name: getattr(found, name) for name in present}
    if found.base_model is not None:
        said["base_model"] = BaseModel(**found.base_model.model_dump())
    if found.layers is not None:
        said["layers"] = tuple(found.layers)
    settings = {name: said.pop(name) for name in SETTINGS if name in said}
    if settings and "operation" not in said:
        key = next(iter(settings))
        raise _bad(key, "needs an `operation` beside it: it is a setting of one")
    if "operation" in said:
        said["operation"] = Operation(said["operation"], **settings)
    return said


def metadata_text(vector: SteeringVector) -> str:
    """The JSON that `parse_metadata` reads back; the same for the same fields.

    Raises `VectorInvalid` if it cannot be written, or is over `MAX_METADATA_BYTES`.
    """
    present = _present(vector)
    check_metadata_size(vector)
    return json.dumps(present, sort_keys=True, allow_nan=False)


def check_metadata_size(vector: SteeringVector) -> None:
    """Raise `VectorInvalid` if the metadata of `vector` cannot be written, or is over
    `MAX_METADATA_BYTES`. Uploads and changes have the same limit."""
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
    """The fields of `vector` that its file needs, in JSON form."""
    plain = Metadata.model_fields.keys() - {"operation", *SETTINGS}
    values = {name: getattr(vector, name) for name in Metadata.model_fields if name in plain}
    values |= vector.operation.said()
    values |= {
        "description": vector.description or None,
        "method_settings": dict(vector.method_settings) or None,
        "base_model": asdict(vector.base_model) if vector.base_model else None,
        "norms": dict(vector.norms) or None,
    }
    present = {name: value for name, value in values.items() if value is not None}
    return {"format_version": FORMAT_VERSION, **present}


def check_description(value: object) -> str:
    """Return `value` if it is a valid description; else raise `VectorInvalid`."""
    return _read(_DESCRIPTION, value, "description")


def read_base_model(value: object) -> BaseModel:
    """`value` as the model on which a vector was made; raises `VectorInvalid`."""
    return BaseModel(**_read(_BASE_MODEL, value, "base_model").model_dump())


def _read(form: TypeAdapter[T], value: object, field: str = "") -> T:
    """`value` in its form; raises `VectorInvalid` that names `field` or the part of it."""
    try:
        return form.validate_python(value, strict=True)
    except pydantic.ValidationError as error:
        problem = first_problem(error)
    # Clients know a field by its name: which entry of a list it is stands in the message.
    path = path_of_key(tuple(step for step in problem.location if isinstance(step, str)), field)
    if problem.is_unknown_field:
        known = BaseModelFields if path.startswith("base_model.") else Metadata
        raise _bad(path, f"is not known; fields are {', '.join(known.model_fields)}")
    entry = "".join(f"[{step}] " for step in problem.location if isinstance(step, int))
    raise _bad(path, f"{entry}{problem.words}")


def _bad(field: str, reason: str) -> VectorInvalid:
    return VectorInvalid(f"metadata field {shown(field)} {reason}", param=field[:128],
                         code="bad_metadata")  # fmt: skip


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


def _check_plain(given: dict[str, Any]) -> None:
    """Raise `VectorInvalid` for what JSON allows and an answer cannot contain: half of a surrogate
    pair, and objects nested without end."""
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
