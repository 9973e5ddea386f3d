"""NumPy's `.npy` and `.npz`, never with `allow_pickle`.

A `.npy` is [hidden], whose layer must be given, or [layers, hidden]; the arrays of a `.npz` are
named as tensors elsewhere, with texts and numbers beside them
(`steersman.vectors.formats.readers.notes`). What a header announces is compared with what is there,
and only then read.
"""

import errno
import math
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
import torch

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.formats.conventions import ARRAY, ARRAYS
from steersman.vectors.formats.imported import ImportedFile, Options
from steersman.vectors.formats.kinds import MAX_UNPACKED, check_unpacked
from steersman.vectors.formats.placement import lone_tensor, named_parts
from steersman.vectors.formats.readers.notes import LAYER_KEY

_ERRORS: Final = (ValueError, TypeError, KeyError, EOFError, OverflowError, SyntaxError,
                  MemoryError, RecursionError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error,
                  NotImplementedError, RuntimeError, tokenize.TokenError)  # fmt: skip


def read_npy(path: Path, options: Options) -> ImportedFile:
    """Read one array. Raises `VectorInvalid`."""
    with path.open("rb") as file:
        value = _array(file, path.name, path.stat().st_size)
    return lone_tensor(value, path.name, ARRAY, options)


def read_npz(path: Path, options: Options) -> ImportedFile:
    """Read the arrays of a `.npz`, placed by their names. Raises `VectorInvalid`."""
    check_unpacked(path)
    tensors: dict[object, object] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in tensors:
                    raise VectorInvalid(f"the array {shown(name)} is there twice", param=name[:128])
                with archive.open(member) as file:
                    tensors[name] = _array(
                        cast("BinaryIO", file), name, member.file_size, notes=True
                    )
    except _ERRORS as error:
        raise _broken(path.name, error) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # A place that lies outside the file.
            raise
        raise _broken(path.name, error) from error
    return named_parts(tensors, ARRAYS, options)


def _array(file: BinaryIO, name: str, size: int, *, notes: bool = False) -> Any:
    """The array in `file`, of `size` bytes, as a tensor of its own floating-point type.

    With `notes`, also what lies beside tensors: a text, a number, a list of layers.
    """
    try:
        numpy_format: Any = np.lib.format
        version = numpy_format.read_magic(file)
        reader = (
            numpy_format.read_array_header_1_0
            if version == (1, 0)
            else numpy_format.read_array_header_2_0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of files that Python 2 wrote.
            shape, by_column, dtype = reader(file, max_header_size=10_000)
    except _ERRORS as error:
        raise _broken(name, error) from error
    if notes and _is_note(name, shape, dtype):
        count = math.prod(shape) * dtype.itemsize
        data = file.read(count)
        if len(data) != count:
            raise _broken(name, ValueError("it ends too early"))
        value = np.frombuffer(data, dtype=dtype).reshape(shape).tolist()
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise VectorInvalid(
            f"array {shown(name)} is {dtype}; a vector is floating point: save it with "
            "array.astype(numpy.float32)"
            + (", without Python objects, which are never loaded" if dtype.hasobject else ""),
            param=name[:128],
            code="wrong_dtype",
        )
    count = math.prod(shape)
    if len(shape) > 8 or count * dtype.itemsize > min(size, MAX_UNPACKED) or count < 0:
        raise VectorInvalid(
            f"array {shown(name)} announces the shape {list(shape)[:8]}, and the file is {size} "
            "bytes; it may be cut off: fetch it again",
            param=name[:128],
            code="truncated",
        )
    data = file.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise _broken(name, ValueError("it ends too early"))
    flat = np.frombuffer(data, dtype=dtype).astype(dtype.newbyteorder("="))
    return torch.from_numpy(flat.reshape(shape, order="F" if by_column else "C").copy())


def _is_note(name: str, shape: tuple[int, ...], dtype: Any) -> bool:
    if dtype.hasobject or not 0 < dtype.itemsize <= 1 << 16:
        return False
    if shape == ():
        return dtype.kind in "iubfUS"
    return (
        dtype.kind in "iu"
        and len(shape) == 1
        and shape[0] <= 10_000
        and bool(LAYER_KEY.fullmatch(name.lower()))
    )


def _broken(name: str, error: Exception) -> VectorInvalid:
    if isinstance(error, VectorInvalid):
        return error
    return VectorInvalid(
        f"{shown(name)} is not a whole NumPy file ({shown(str(error))}); it may be cut off: fetch "
        "it again",
        param="file",
        code="not_numpy",
    )
