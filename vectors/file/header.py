"""Reads safetensors files: the header, before anything else of a file is used.

A file is 8 bytes (little-endian length of the header), the header as JSON, and the tensors' bytes
without gaps. The length is checked before the JSON is parsed, so a hostile header costs nothing.

`read_header` parses the header itself, because safetensors' own reader gives no metadata for a file
in memory, such as an upload, and accepts duplicate keys. `open_tensors` reads the values of a file
on disk with safetensors' reader, after the same check of the length.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from safetensors import SafetensorError, safe_open

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.parts import (
    PartName,
    hidden_size_of,
    operation_of,
    parse_part_name,
    rows_shape,
)
from steersman.vectors.tensors import HookPoint, check_one_hidden_size, check_shape

MAX_HEADER_BYTES: Final = 1 << 20
"""Largest header that is read; a new file's metadata has a lower limit, `MAX_METADATA_BYTES`."""
MAX_IMPORTED_HEADER_BYTES: Final = 8 << 20
"""The same for files of other tools, which may have a long text in it."""
_FLOAT32_BYTES: Final = 4
_ZIP, _PICKLE_PROTOCOLS = b"PK\x03\x04", (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class TensorSpan:
    """Where one float32 tensor lies: [start, stop) in bytes from the beginning of the file."""

    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """Everything in a file except its values."""

    spans: Mapping[PartName, TensorSpan]
    """Each tensor, in ascending order."""
    metadata: Mapping[str, str]
    hidden_size: int

    @property
    def sites(self) -> set[str]:
        """Sites of its tensors."""
        return {name.point.site for name in self.spans}

    def points(self, operation: str | None) -> "Points":
        """What the file has at each hook point, if its metadata has this `operation`. Raises
        `VectorInvalid` if the tensors are not those of the operation."""
        found = operation_of(self.spans.keys(), operation)
        shapes: defaultdict[HookPoint, dict[str, tuple[int, ...]]] = defaultdict(dict)
        for (point, part), span in self.spans.items():
            shapes[point][part] = span.shape
        return Points(found, {point: rows_shape(found, of) for point, of in shapes.items()})


class Points(NamedTuple):
    """What a file does and where."""

    operation: str
    shapes: Mapping[HookPoint, tuple[int, ...]]
    """Of the tensors in memory (`steersman.vectors.parts`)."""


def read_header(file: BinaryIO, size: int, max_header_bytes: int = MAX_HEADER_BYTES) -> Header:
    """Read and check the header of `file`, which is `size` bytes long and at its beginning.

    Raises `VectorInvalid` for anything but a whole safetensors file of well-named float32 tensors.
    """
    start = file.read(8)
    if not start:
        raise VectorInvalid("the file is empty", param="file", code="empty_file")
    if len(start) < 8:
        raise _not_safetensors("it is shorter than 8 bytes")
    length = _header_length(start, max_header_bytes)
    if 8 + length > size:
        raise _truncated(f"its header should be {length} bytes and {size - 8} are there")
    fields = _parse(file.read(length))
    metadata = _metadata(fields.pop("__metadata__", {}))
    spans = {parse_part_name(n): _span(n, spec, 8 + length) for n, spec in fields.items()}
    _check_layout(spans.values(), 8 + length, size)
    operation = operation_of(spans.keys(), None) if spans else "add"
    sizes = {name.text: hidden_size_of(name, operation, s.shape) for name, s in spans.items()}
    hidden_size = check_one_hidden_size({n: size for n, size in sizes.items() if size is not None})
    return Header({name: spans[name] for name in sorted(spans)}, metadata, hidden_size)


@contextmanager
def open_tensors(path: Path, max_header_bytes: int = MAX_HEADER_BYTES) -> Iterator[Any]:
    """safetensors' own reader for the file at `path`: `keys()`, `get_tensor(name)`, `metadata()`.

    A tensor is a view of the mapped file: clone it to keep it. Raises `VectorInvalid` for a broken
    file or one with a longer header, and `OSError`.
    """
    with path.open("rb") as file:
        _header_length(file.read(8), max_header_bytes)
    try:
        with safe_open(path, framework="pt", device="cpu") as reader:
            yield reader
    except (SafetensorError, ValueError) as error:
        raise VectorInvalid(
            f"this is not a whole safetensors file ({shown(str(error))}); it may be cut off: fetch "
            "it again",
            param="file",
            code="not_safetensors",
        ) from error


def _header_length(start: bytes, most: int) -> int:
    length = int.from_bytes(start, "little")
    if length > most:
        _refuse_pickle(start)
        raise VectorInvalid(
            f"the first 8 bytes announce a header of {length} bytes, at most {most} are read; "
            "either this is not a safetensors file, or its metadata is far too large",
            param="file",
            code="header_too_large",
        )
    return length


def _refuse_pickle(start: bytes) -> None:
    # Only asked of impossible lengths: a header of 0x480 bytes begins like a pickle, too.
    if start.startswith((_ZIP, *_PICKLE_PROTOCOLS)):
        raise VectorInvalid(
            "this is a pickle or torch.save file, which can run code and is never loaded; "
            "write the tensors with safetensors.torch.save_file",
            param="file",
            code="pickle",
        )


def _parse(text: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(text.decode("utf-8"), object_pairs_hook=no_duplicates)
    except VectorInvalid:
        raise
    except (ValueError, RecursionError):
        raise _not_safetensors("its header is not JSON") from None
    if not isinstance(fields, dict):
        raise _not_safetensors("its header is not a JSON object")
    return fields


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object of `pairs`, in time linear in their number: for `json`'s `object_pairs_hook`.

    Raises `VectorInvalid` if a key is there twice: readers disagree about which one counts.
    """
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise VectorInvalid(f"the header has {shown(name)} twice", param=name[:128])
        fields[name] = value
    return fields


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise VectorInvalid(
            "safetensors metadata maps strings to strings",
            param="__metadata__",
            code="bad_metadata",
        )
    return value


def _span(name: str, spec: object, data_start: int) -> TensorSpan:
    match spec:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, stop]} if (
            type(start) is int and type(stop) is int
        ):
            pass
        case _:
            raise _not_safetensors(f"its header does not describe tensor {name!r}")
    if dtype != "F32":
        raise VectorInvalid(
            f"tensor {name!r} is {shown(dtype)}; vectors are float32 (F32): convert each tensor "
            "with tensor.to(torch.float32), whole numbers of a quantised one with its scale, and "
            "save them again with safetensors.torch.save_file",
            param=name,
            code="wrong_dtype",
        )
    if not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise _not_safetensors(f"the shape of tensor {name!r} is not a list of sizes")
    check_shape(name, tuple(shape))
    count = _FLOAT32_BYTES
    for n in shape:
        count *= n
    if stop - start != count:
        raise _not_safetensors(f"tensor {name!r} does not fill the {stop - start} bytes it claims")
    return TensorSpan(tuple(shape), data_start + start, data_start + stop)


def _check_layout(tensors: Iterable[TensorSpan], start: int, size: int) -> None:
    """Refuse gaps and overlaps, which the format does not allow, so nothing can be hidden in a file
    or read twice."""
    for span in sorted(tensors, key=lambda span: span.start):
        if span.start != start:
            raise _not_safetensors("its tensors overlap or leave gaps")
        start = span.stop
    if start > size:
        raise _truncated(f"its tensors end at byte {start} and the file at {size}")
    if start < size:
        raise _not_safetensors(f"{size - start} bytes follow the last tensor")


def _truncated(reason: str) -> VectorInvalid:
    return VectorInvalid(f"the file is cut off: {reason}", param="file", code="truncated")


def _not_safetensors(reason: str) -> VectorInvalid:
    return VectorInvalid(
        f"this is not a safetensors file: {reason}; write it with safetensors.torch.save_file",
        param="file",
        code="not_safetensors",
    )
