"""Chooses the reader for a file, alone or in a folder."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.formats.imported import ImportedFile, Options
from steersman.vectors.formats.kinds import FORMATS, SUFFIXES, is_vector_like, kind_of
from steersman.vectors.formats.readers.gguf import read_gguf
from steersman.vectors.formats.readers.numpy import read_npy, read_npz
from steersman.vectors.formats.readers.safetensors import read_safetensors
from steersman.vectors.formats.readers.svec import read_svec
from steersman.vectors.formats.readers.torch import (
    CAA_NAME,
    EASY_EDIT_NAME,
    read_caa,
    read_easy_edit,
    read_torch,
)
from steersman.vectors.vector import SteeringVector


def read_file(path: Path, options: Options) -> ImportedFile | SteeringVector:
    """Read the vector in `path`. Raises `VectorInvalid`, `OSError`, `PackageMissing`."""
    if not path.stat().st_size:
        raise VectorInvalid("the file is empty", param="file", code="empty_file")
    # A broken file gets the error of the format in its name.
    match kind_of(path) or SUFFIXES.get(path.suffix.lower()):
        case "gguf":
            return read_gguf(path)
        case "safetensors":
            return read_safetensors(path, options)
        case "torch":
            return read_torch(path, options)
        case "npz":
            return read_npz(path, options)
        case "npy":
            return read_npy(path, options)
        case "svec":
            return read_svec(path)
    raise VectorInvalid(
        f"this is not a vector of a kind that is known; known are {'; '.join(FORMATS)}",
        param="file",
        code="unknown_format",
    )


Reader = Callable[[], ImportedFile | SteeringVector]


def read_folder(folder: Path, options: Options) -> ImportedFile | SteeringVector:
    """Read the one vector of `folder`; raises `VectorInvalid` if it holds none, or several."""
    readers = _readers(folder, options)
    if len(readers) > 1:
        raise VectorInvalid(
            f"the folder holds {len(readers)} vectors: {_listed(list(readers))}; give one of them",
            param="file",
            code="several_vectors",
        )
    if not readers:
        below = sorted(
            str(path.relative_to(folder)) for s in SUFFIXES for path in folder.glob(f"*/*{s}")
        )
        raise VectorInvalid(
            f"the folder holds no file of a kind that is known ({', '.join(SUFFIXES)})"
            + (f"; below it are {_listed(below)}: give one of them" if below else ""),
            param="file",
            code="unknown_format",
        )
    (read,) = readers.values()
    return read()


def _readers(folder: Path, options: Options) -> dict[str, Reader]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    caa = [path for path in files if CAA_NAME.fullmatch(path.name)]
    easy_edit = [path for path in files if EASY_EDIT_NAME.fullmatch(path.name)]
    readers: dict[str, Reader] = {}
    if caa:
        readers["vec_layer_*.pt"] = lambda: read_caa(caa, options.model)
    if easy_edit:
        readers["layer_*.pt"] = lambda: read_easy_edit(easy_edit)
    for path in files:
        if path not in caa and path not in easy_edit and is_vector_like(path):
            readers[path.name] = partial(_read, path, options)
    return readers


def _read(path: Path, options: Options) -> ImportedFile | SteeringVector:
    try:
        return read_file(path, options)
    except VectorInvalid as error:
        message = f"{path.name}: {error.message}"
        raise VectorInvalid(message, param=error.param, code=error.code) from error


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (" and others" if len(names) > 10 else "")
