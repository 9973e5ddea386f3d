"""A vector in the library: everything except its values.

Thousands of these are in memory at once, and a file decides how long its metadata is. So the fields
that may be long are kept as JSON text, and parsed when they are read.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from steersman.vectors.defaults import check_layers
from steersman.vectors.file.glp import refuse_hidden_meaning
from steersman.vectors.file.header import read_header
from steersman.vectors.file.metadata import parse_metadata
from steersman.vectors.library.record import Record
from steersman.vectors.operation import Operation
from steersman.vectors.served import ServedModel
from steersman.vectors.tensors import HookPoint
from steersman.vectors.vector import SteeringVector, VectorFields, check_base_model


class _Long:
    """The fields of a file's metadata that may be long."""

    details: str

    @property
    def method_settings(self) -> dict[str, Any]:
        """Parsed at every access."""
        settings: dict[str, Any] = json.loads(self.details).get("method_settings", {})
        return settings

    @property
    def norms(self) -> dict[str, float]:
        """Length of each tensor by its name, where the file has it. Parsed at every access."""
        norms: dict[str, float] = json.loads(self.details).get("norms", {})
        return norms


@dataclass(frozen=True)
class StoredVector(VectorFields, _Long):
    """An object file's header and metadata. `size` is in bytes; `tensors` gives shapes."""

    size: int
    hidden_size: int
    tensors: Mapping[HookPoint, tuple[int, ...]]
    name: str | None = None
    created_at: str | None = None
    details: str = "{}"
    """`method_settings` and `norms`, as JSON."""

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        return 1024 + 2 * len(self.details) + 4 * len(self.description) + 256 * len(self.tensors)


@dataclass(frozen=True, kw_only=True)
class Entry(VectorFields, _Long):
    """One version of a named vector.

    `created_at` and `updated_at` are the name's, in Unix seconds; `made_at` is the file's, in
    ISO 8601. `tensors` gives shapes, [hidden] or [steps, hidden]. `versions` are the name's
    digests, newest first. `size` is in bytes.
    """

    name: str
    digest: str
    path: Path
    made_at: str | None
    created_at: int
    updated_at: int
    hidden_size: int
    misfit: str | None
    """Why the served model cannot be steered with it; None if it can."""
    base_model_matches: bool | None
    """Whether it was made on the served model; None where it has no fingerprint."""
    tensors: Mapping[HookPoint, tuple[int, ...]]
    size: int
    versions: tuple[str, ...]
    foreign: bool
    """See `Record.foreign`."""
    details: str
    """See `StoredVector.details`."""


def read_stored(path: Path) -> StoredVector:
    """Read an object's header and metadata, and check them; the values are not touched.

    Raises `VectorInvalid` for a broken file and `OSError` for one that is not there.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = read_header(file, size)
    said = parse_metadata(header.metadata)
    own = said["operation"].name if "operation" in said else "add"
    refuse_hidden_meaning(header.metadata, header.sites, own)
    points = header.points(said["operation"].name if "operation" in said else None)
    said.setdefault("operation", Operation(points.operation))
    available = {layer for _, layer in points.shapes}
    layers = check_layers(said.pop("layers", available), available)
    check_base_model(said.get("base_model"), header.hidden_size, max(available))
    long = {name: said.pop(name) for name in ("method_settings", "norms") if name in said}
    return StoredVector(
        size, header.hidden_size, points.shapes, layers=layers, **said, details=json.dumps(long)
    )


def make_entry(
    record: Record, digest: str, path: Path, stored: StoredVector, served: ServedModel
) -> Entry:
    """Combine a name's record with one of its objects, and compare it with the served model."""
    foreign = digest in record.foreign
    if foreign:
        stored = bare(stored)
    if digest == record.digests[0]:
        own = {name: getattr(record, name) for name in ("description", "safe_range", "base_model")}
        stored = replace(stored, **{name: said for name, said in own.items() if said is not None})
    misfit = served.misfit(stored)
    shared: dict[str, Any] = {f.name: getattr(stored, f.name) for f in fields(VectorFields)}
    return Entry(
        **shared,
        name=record.name,
        digest=digest,
        path=path,
        made_at=stored.created_at,
        created_at=record.created_at,
        updated_at=record.updated_at,
        hidden_size=stored.hidden_size,
        misfit=None if misfit is None else misfit.message,
        base_model_matches=served.matches(stored),
        tensors=stored.tensors,
        size=stored.size,
        versions=record.digests,
        foreign=foreign,
        details=stored.details,
    )


def bare(stored: StoredVector) -> StoredVector:
    """The part of `stored` that follows from the content alone."""
    numbers = sum(math.prod(shape) for shape in stored.tensors.values())
    return StoredVector(
        4 * numbers,
        stored.hidden_size,
        stored.tensors,
        layers=stored.layers,
        coefficient=stored.coefficient,
        positions=stored.positions,
        operation=stored.operation,
    )


def described(vector: SteeringVector) -> StoredVector:
    """`vector`, which is not in a library yet, in the form that is compared with the served model.
    Its size is that of its numbers."""
    shapes = {key: tuple(tensor.shape) for key, tensor in vector.tensors.items()}
    numbers = sum(math.prod(shape) for shape in shapes.values())
    return StoredVector(
        4 * numbers,
        vector.hidden_size,
        shapes,
        **{one.name: getattr(vector, one.name) for one in fields(VectorFields)},
    )
