"""What the library says about a vector: all of it but the values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vectors.defaults import Positions, check_layers
from vectors.glp import refuse_hidden_meaning
from vectors.header import read_header
from vectors.metadata import parse_metadata
from vectors.record import Record
from vectors.tensors import TensorKey
from vectors.vector import BaseModel, check_base_model


@dataclass(frozen=True)
class StoredVector:
    """An object file's header and metadata. `size` is in bytes."""

    size: int
    hidden_size: int
    tensors: Mapping[TensorKey, tuple[int, ...]]
    layers: tuple[int, ...]
    description: str = ""
    name: str | None = None
    method: str | None = None
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    base_model: BaseModel | None = None
    coefficient: float = 1.0
    positions: Positions = "generation"
    safe_range: tuple[float, float] | None = None
    norms: Mapping[str, float] = field(default_factory=dict)
    licence: str | None = None
    created_at: str | None = None


@dataclass(frozen=True)
class Entry:
    """One version of a named vector.

    `created_at` and `updated_at` are the name's, in Unix seconds; `made_at` is the file's, in
    ISO 8601. `tensors` gives shapes, [hidden] or [steps, hidden]. `versions` are the name's
    digests, newest first. `size` is in bytes.
    """

    name: str
    digest: str
    path: Path
    description: str
    method: str | None
    method_settings: Mapping[str, Any]
    base_model: BaseModel | None
    coefficient: float
    layers: tuple[int, ...]
    positions: Positions
    safe_range: tuple[float, float] | None
    norms: Mapping[str, float]
    licence: str | None
    made_at: str | None
    created_at: int
    updated_at: int
    hidden_size: int
    tensors: Mapping[TensorKey, tuple[int, ...]]
    size: int
    versions: tuple[str, ...]
    foreign: bool
    """See `Record.foreign`."""


def read_stored(path: Path) -> StoredVector:
    """Read an object's header and metadata, and check them; the values are not touched.

    Raises `VectorInvalid` for a broken file and `OSError` for one that is not there.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = read_header(file, size)
    refuse_hidden_meaning(header.metadata, {site for site, _ in header.tensors})
    fields = parse_metadata(header.metadata)
    available = {layer for _, layer in header.tensors}
    layers = check_layers(fields.pop("layers", available), available)
    check_base_model(fields.get("base_model"), header.hidden_size, max(available))
    shapes = {key: span.shape for key, span in header.tensors.items()}
    return StoredVector(size, header.hidden_size, shapes, layers, **fields)


def make_entry(record: Record, digest: str, path: Path, stored: StoredVector) -> Entry:
    """Put a name's record and one of its objects together."""
    foreign = digest in record.foreign
    if foreign:
        stored = bare(stored)
    current = digest == record.digests[0]
    own_description = record.description if current else None
    own_range = record.safe_range if current else None
    return Entry(
        name=record.name,
        digest=digest,
        path=path,
        description=stored.description if own_description is None else own_description,
        method=stored.method,
        method_settings=stored.method_settings,
        base_model=stored.base_model,
        coefficient=stored.coefficient,
        layers=stored.layers,
        positions=stored.positions,
        safe_range=own_range or stored.safe_range,
        norms=stored.norms,
        licence=stored.licence,
        made_at=stored.created_at,
        created_at=record.created_at,
        updated_at=record.updated_at,
        hidden_size=stored.hidden_size,
        tensors=stored.tensors,
        size=stored.size,
        versions=record.digests,
        foreign=foreign,
    )


def bare(stored: StoredVector) -> StoredVector:
    """What follows from the content alone."""
    numbers = sum(math.prod(shape) for shape in stored.tensors.values())
    return StoredVector(
        4 * numbers,
        stored.hidden_size,
        stored.tensors,
        stored.layers,
        coefficient=stored.coefficient,
        positions=stored.positions,
    )
