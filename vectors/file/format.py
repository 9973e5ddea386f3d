"""The file: one safetensors file a vector.

Tensors are named `<site>.<layer>` (`resid_post.14`), float32, [hidden] or [steps, hidden]. All else
is optional: one JSON object, as a string under the metadata key `steersman`, with

    format_version   1                      coefficient   default strength, 1
    name             default for uploads    layers        default layers, all it has
    description      text                   positions     default positions, "generation"
    method           text                   safe_range    [lowest, highest] coefficient
    method_settings  object                 norms         {"resid_post.14": length}
    base_model       {"id", "hidden_size", "num_layers", "fingerprint"}
    licence          text                   created_at    ISO 8601
    operation        default, "add"; its settings (min, max, unit, value, multiply, angle, adaptive)

Operations with other tensors name their parts: `resid_post.14.encoder` (`steersman.vectors.parts`).

Pickle is never loaded.
"""

import io
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

import torch
from safetensors.torch import save

from steersman.vectors.defaults import POSITION_RULES, Positions
from steersman.vectors.errors import LibraryError, VectorInvalid, VectorNotFound
from steersman.vectors.file.glp import refuse_hidden_meaning
from steersman.vectors.file.header import MAX_HEADER_BYTES, Header, open_tensors, read_header
from steersman.vectors.file.metadata import (
    FORMAT_VERSION,
    MAX_DESCRIPTION,
    MAX_METADATA_BYTES,
    METADATA_KEY,
    check_metadata_size,
    metadata_text,
    metadata_too_large,
    parse_metadata,
)
from steersman.vectors.operation import Operation
from steersman.vectors.parts import (
    WHOLE,
    PartName,
    Rows,
    operation_of,
    parse_part_name,
    stacked,
    unstacked,
)
from steersman.vectors.tensors import SITES, HookPoint, check_shape, parse_tensor_name, tensor_name
from steersman.vectors.vector import BaseModel, SteeringVector

_UNPARSED: Final = 4 * MAX_METADATA_BYTES + 16 * MAX_DESCRIPTION
"""Characters of our metadata that are too many, however much of them is escapes: not parsed."""

__all__ = [
    "FORMAT_VERSION",
    "MAX_HEADER_BYTES",
    "MAX_METADATA_BYTES",
    "METADATA_KEY",
    "POSITION_RULES",
    "SITES",
    "BaseModel",
    "HookPoint",
    "Positions",
    "SteeringVector",
    "parse_tensor_name",
    "read_new",
    "read_tensors",
    "read_vector",
    "tensor_name",
    "write_vector",
]


def read_vector(
    source: Path | str | bytes, max_header_bytes: int = MAX_HEADER_BYTES
) -> SteeringVector:
    """Read a whole vector from a path or from a file's bytes.

    Raises `VectorInvalid` for anything wrong with it, `VectorNotFound` if there is no such file
    and `LibraryError` if it cannot be read.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), len(source), max_header_bytes)
    path = Path(source)
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size, max_header_bytes)
    except FileNotFoundError:
        raise VectorNotFound(f"there is no file {path.name!r}") from None
    except OSError as error:
        raise LibraryError(f"{path.name!r} cannot be read: {error.strerror}") from error


def read_new(data: bytes) -> SteeringVector:
    """`read_vector` for a file that is to be stored: its metadata, including other tools' keys, may
    have at most `MAX_METADATA_BYTES`. Raises `VectorInvalid`."""
    file = io.BytesIO(data)
    header = read_header(file, len(data))
    others = {k: v for k, v in header.metadata.items() if k != METADATA_KEY}
    size = sum(len(text.encode("utf-8", "replace")) for pair in others.items() for text in pair)
    if size > MAX_METADATA_BYTES:
        raise metadata_too_large(size, "__metadata__")
    own = header.metadata.get(METADATA_KEY, "")
    if len(own) > _UNPARSED:
        raise metadata_too_large(len(own), METADATA_KEY)
    vector = _with_values(file, header)
    check_metadata_size(vector)
    return vector


def write_vector(vector: SteeringVector) -> bytes:
    """The file of `vector`: the same bytes for the same vector. Raises `VectorInvalid` if its
    metadata is over `MAX_METADATA_BYTES`."""
    text = metadata_text(vector)
    # Cloned, because safetensors refuses tensors that share memory.
    tensors = {
        PartName(key, part).text: tensor.clone()
        for key, rows in vector.tensors.items()
        for part, tensor in unstacked(
            vector.operation.name, Rows(rows, vector.numbers.get(key))
        ).items()
    }
    return bytes(save(tensors, metadata={METADATA_KEY: text}))


def read_tensors(path: Path, keys: Iterable[HookPoint]) -> dict[HookPoint, torch.Tensor]:
    """Read only the tensors at these hook points, float32, as `SteeringVector` has them, without
    parsing the metadata.

    Raises `VectorNotFound` if the file is gone, `VectorInvalid` if it is broken or lacks one of
    them.
    """
    found: dict[HookPoint, torch.Tensor] = {}
    try:
        with open_tensors(path) as file:
            names: defaultdict[HookPoint, list[PartName]] = defaultdict(list)
            for written in file.keys():  # noqa: SIM118 (a reader, not a mapping)
                name = parse_part_name(written)
                names[name.point].append(name)
            for key in keys:
                if key not in names:
                    name = PartName(key, WHOLE)
                    raise VectorInvalid(f"the vector has no tensor {name.text!r}", param=name.text)
                # Cloned, because the tensor would be a window on the mapped file.
                parts = {n.part: _sound(n, file.get_tensor(n.text).clone()) for n in names[key]}
                found[key] = stacked(operation_of(names[key], None), key, parts).rows
    except FileNotFoundError:
        raise VectorNotFound(f"there is no file {path.name!r}") from None
    except OSError as error:
        raise VectorInvalid(f"{path.name!r} cannot be read: {error}", param="file") from error
    return found


def _read(file: BinaryIO, size: int, max_header_bytes: int) -> SteeringVector:
    return _with_values(file, read_header(file, size, max_header_bytes))


def _with_values(file: BinaryIO, header: Header) -> SteeringVector:
    fields = parse_metadata(header.metadata)
    own = fields["operation"].name if "operation" in fields else "add"
    refuse_hidden_meaning(header.metadata, header.sites, own)
    points = header.points(fields["operation"].name if "operation" in fields else None)
    fields.setdefault("operation", Operation(points.operation))
    parts: defaultdict[HookPoint, dict[str, torch.Tensor]] = defaultdict(dict)
    for (key, part), span in header.spans.items():
        file.seek(span.start)
        values = bytearray(file.read(span.stop - span.start))
        if len(values) != span.stop - span.start:
            raise VectorInvalid("the file is cut off", param="file", code="truncated")
        parts[key][part] = torch.frombuffer(values, dtype=torch.float32).reshape(span.shape)
    rows = {key: stacked(points.operation, key, found) for key, found in parts.items()}
    return SteeringVector(
        {key: found.rows for key, found in rows.items()},
        numbers={key: found.numbers for key, found in rows.items() if found.numbers is not None},
        **fields,
    )


def _sound(name: PartName, tensor: torch.Tensor) -> torch.Tensor:
    check_shape(name.text, tuple(tensor.shape))
    if tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
        text = name.text
        raise VectorInvalid(f"tensor {text!r} is not float32, or not finite", param=text)
    return tensor
