"""The only entry: recognises a file or folder by its content and name, and reads it."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from steersman.vectors.errors import LibraryError, VectorInvalid, VectorNotFound
from steersman.vectors.formats.build import as_numbers, build, fitted
from steersman.vectors.formats.card import Card, read_card
from steersman.vectors.formats.imported import ImportedFile, LayersAre, Options
from steersman.vectors.formats.kinds import FORMATS
from steersman.vectors.formats.readers.dispatch import read_file, read_folder
from steersman.vectors.library.names import check_name
from steersman.vectors.vector import BaseModel, SteeringVector

__all__ = ["FORMATS", "load"]


def load(
    path: Path | str,
    *,
    name: str | None = None,
    layer: int | Iterable[int] | None = None,
    site: str | None = None,
    as_extracted: bool = False,
    model: str | None = None,
    num_layers: int | None = None,
    layers_are: LayersAre | None = None,
) -> SteeringVector:
    """The vector in the file or folder at `path`, placed where its own library adds it.

    Reads the formats in `FORMATS`, which are recognised by their content. Pickles are not run.

    - `name`: the vector's name; the file's or folder's unless given.
    - `layer`: the block, or blocks, that are steered by default, numbered as the file numbers them.
      A single tensor whose name has no layer needs it.
    - `site`: where to add the vectors instead, at the file's own layer numbers.
    - `as_extracted`: add them where they were read, where that is somewhere else
      (`steersman.vectors.formats.conventions`).
    - `model`: which model's vectors to read in a CAA folder of several.
    - `num_layers`: number of blocks of the model to steer; tensors past the last are left out.
    - `layers_are`: what the layers of a file that has bare numbers only (rows of a stack,
      `{14: tensor}`) count: "blocks", or "hidden-states", of which N is the output of block N-1.

    The tensors of the result are float32, [hidden] or [steps, hidden];
    `method_settings["imported"]` records the choices that were made.

    Raises `VectorInvalid`, whose message names the file, and whose `param` is the tensor, key or
    option at fault; `VectorNotFound` if there is no such file; `LibraryError` if it cannot be read;
    `PackageMissing` for a GGUF file without the package gguf.

    >>> import torch
    >>> from safetensors.torch import save_file
    >>> from steersman import load
    >>> save_file({"vector": torch.ones(8)}, "glad.safetensors")
    >>> glad = load("glad.safetensors", layer=14)
    >>> glad.name, glad.layers, tuple(glad.tensors["resid_post", 14].shape)
    ('glad', (14,), (8,))
    """
    path = Path(path)
    try:
        options = Options(as_numbers(layer), num_layers, model, layers_are)
        return _load(path, name, options, site, as_extracted)
    except VectorInvalid as error:
        message = f"{path.name or path}: {error.message}"
        raise VectorInvalid(message, param=error.param, code=error.code) from error
    except FileNotFoundError:
        raise VectorNotFound(f"there is no file {str(path)!r}") from None
    except OSError as error:
        raise LibraryError(f"{path.name!r} cannot be read: {error.strerror}") from error


def _load(
    path: Path, name: str | None, options: Options, site: str | None, as_extracted: bool
) -> SteeringVector:
    card = read_card(path) if path.is_dir() else Card(BaseModel(), None)
    if options.num_layers is None:
        options = replace(options, num_layers=card.base.num_layers)
    found = read_folder(path, options) if path.is_dir() else read_file(path, options)
    if options.layers_are is not None:
        _check_counted(found, options, site)
    label = check_name(name) if name is not None else _name_of(path)
    if isinstance(found, ImportedFile):
        return build(
            replace(found, warnings=(*found.warnings, *card.warnings)),
            options,
            file=path.name,
            name=label,
            site=site,
            as_extracted=as_extracted,
            base=card.base,
            licence=card.licence,
        )
    if site is not None or as_extracted:
        raise VectorInvalid(
            "the tensors of this file name their hook points; leave out site and as_extracted",
            param="site" if site is not None else "as_extracted",
        )
    numbers = options.numbers
    fit, beyond = fitted(replace(found, layers=numbers) if numbers else found, options.num_layers)
    settings = dict(fit.method_settings)
    if beyond:
        settings["imported"] = {
            **(settings.get("imported") or {}), "left_out_past_last_block": beyond
        }  # fmt: skip
    return replace(
        fit,
        name=name or found.name or label,
        method_settings=settings,
        base_model=found.base_model or (card.base if card.base != BaseModel() else None),
        licence=found.licence or card.licence,
    )


def _check_counted(
    found: ImportedFile | SteeringVector, options: Options, site: str | None
) -> None:
    if not (isinstance(found, ImportedFile) and found.counted):
        raise VectorInvalid(
            "the layers of this file are not bare numbers; leave out layers_are", param="layers_are"
        )
    if site is not None and options.layers_are == "hidden-states":
        raise VectorInvalid(
            "hidden_states are outputs of blocks, resid_post; leave out site or layers_are",
            param="site",
        )


def _name_of(path: Path) -> str | None:
    """A vector's name from the name of the file, or None."""
    stem = path.resolve().name if path.is_dir() else path.stem
    plain = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", stem)).strip("._-")
    return plain[:128] or None
