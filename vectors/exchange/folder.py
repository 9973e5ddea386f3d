"""A folder, as CAA or EasyEdit write one or as the Hugging Face hub has it: the vector inside."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from vectors.errors import VectorInvalid
from vectors.exchange.found import Found
from vectors.exchange.gguf_in import read_gguf
from vectors.exchange.safetensors_in import read_safetensors
from vectors.exchange.svec import read_svec
from vectors.exchange.torch_in import (
    CAA_NAME,
    EASY_EDIT_NAME,
    read_caa,
    read_easy_edit,
    read_torch,
)
from vectors.vector import SteeringVector

Reader = Callable[[], Found | SteeringVector]
SUFFIXES = (".safetensors", ".gguf", ".svec", ".pt")


def read_folder(
    folder: Path, numbers: Sequence[int] | None, model: str | None
) -> Found | SteeringVector:
    """Read the one vector of `folder`; raises `VectorInvalid` if it holds none, or several."""
    readers = _readers(folder, numbers, model)
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


def _readers(folder: Path, numbers: Sequence[int] | None, model: str | None) -> dict[str, Reader]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    caa = [path for path in files if CAA_NAME.fullmatch(path.name)]
    easy_edit = [path for path in files if EASY_EDIT_NAME.fullmatch(path.name)]
    readers: dict[str, Reader] = {}
    if caa:
        readers["vec_layer_*.pt"] = lambda: read_caa(caa, model)
    if easy_edit:
        readers["layer_*.pt"] = lambda: read_easy_edit(easy_edit)
    for path in files:
        if path.suffix in SUFFIXES and path not in caa and path not in easy_edit:
            readers[path.name] = partial(_read, path, numbers)
    return readers


def _read(path: Path, numbers: Sequence[int] | None) -> Found | SteeringVector:
    try:
        match path.suffix:
            case ".safetensors":
                return read_safetensors(path, numbers)
            case ".gguf":
                return read_gguf(path)
            case ".svec":
                return read_svec(path)
            case _:
                return read_torch(path, numbers)
    except VectorInvalid as error:
        message = f"{path.name}: {error.message}"
        raise VectorInvalid(message, param=error.param, code=error.code) from error


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (" and others" if len(names) > 10 else "")
