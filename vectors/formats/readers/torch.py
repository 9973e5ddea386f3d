"""What `torch.save` writes, `.pt` or `.pth`: the layer is in the file, its name, or beside it.

    vec_layer_{N}_{model}.pt                   CAA (get_vector_path), one file a layer
    layer_{N}.pt                               EasyEdit (generate_caa_vectors), one file a layer
    direction.pt, direction_metadata.json      refusal_direction (select_and_save_direction)
    [layers, hidden], or a list of tensors     a row for each layer
    {layer: tensor}                            by number, or by name as in safetensors
    {"vector": tensor, "layer": 14, ...}       as it says (steersman.vectors.formats.readers.notes)
    [hidden]                                   at the layer that is given

For the command line only, never the server: these files are pickles. `weights_only=True` lets
tensors through and refuses all else.
"""

import json
import pickle
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.file.operation import check_operations, refuse_operation_name
from steersman.vectors.formats.conventions import BARE, CAA, EASY_EDIT, REFUSAL
from steersman.vectors.formats.imported import (
    ImportedFile,
    ImportedTensor,
    Options,
    imported_tensor,
    layer_number,
)
from steersman.vectors.formats.kinds import check_unpacked
from steersman.vectors.formats.placement import (
    lone_tensor,
    place_of,
    placed,
    refuse_autoencoder,
    squeezed,
    stacked,
)
from steersman.vectors.formats.readers.notes import read_notes, split_notes

CAA_NAME: Final = re.compile(r"vec_layer_([0-9]+)(?:_(.+?))?\.pth?", re.ASCII)
EASY_EDIT_NAME: Final = re.compile(r"layer_([0-9]+)\.pth?", re.ASCII)
REFUSAL_NAME: Final = "direction.pt"
REFUSAL_METADATA: Final = "direction_metadata.json"
_WRAPPERS: Final = frozenset(
    (
        *("vector", "direction", "steering_vector", "control_vector", "steering_direction"),
        *("tensor", "data", "weight", "state_dict", "layer", "value", "activation", "model"),
        *("steer", "steering", "v", "vec"),
    )
)
"""Keys, without an s at their end, that only name a vector."""


def read_torch(path: Path, options: Options) -> ImportedFile:
    """Read one file; `options` place a tensor without a layer. Raises `VectorInvalid`."""
    if CAA_NAME.fullmatch(path.name):
        return read_caa([path])
    if EASY_EDIT_NAME.fullmatch(path.name):
        return read_easy_edit([path])
    if path.name == REFUSAL_NAME and (path.parent / REFUSAL_METADATA).is_file():
        return read_refusal(path)
    value = _load(path)
    # {"vector": tensor}, {"directions": {14: tensor}}: what is inside counts.
    said: dict[str, Any] = {}
    while isinstance(value, Mapping):
        value, beside = split_notes(value, place_of)
        said |= beside
        refuse_autoencoder(value)
        if len(value) != 1:
            break
        ((key, inner),) = value.items()
        if type(key) is int or place_of(str(key)) is not None:
            break  # {14: ...}: where it belongs.
        _check_wrapper(key, path.name)
        if not isinstance(inner, Mapping):
            break
        value = inner
    if isinstance(value, list | tuple):
        value = stacked(value, path.name)
    if isinstance(value, Mapping):
        return placed(value, BARE, options, read_notes(said))
    if not isinstance(value, torch.Tensor):
        raise VectorInvalid(
            f"{path.name} holds not a tensor but {type(value).__name__}; save a tensor, or "
            "{layer: tensor}",
            param=path.name[:128],
            code="bad_tensor",
        )
    return lone_tensor(value, path.name, BARE, options)


def _check_wrapper(key: object, file: str) -> None:
    """Raise `VectorInvalid` for the one key of a file unless it only names a vector: it may be a
    site or an operation."""
    word = str(key).strip().lower()
    if any(c.isdigit() for c in word) or word.rstrip("s") in _WRAPPERS:
        refuse_operation_name(str(key))
        return
    raise VectorInvalid(
        f"{file} has its tensors under {shown(word)}, which may say where or how they are meant; "
        "save {layer: tensor}, or tensors named as <site>.<layer>, such as mlp_out.12, if they are "
        "to be added",
        param=word[:128],
        code="unknown_layout",
    )


def read_caa(paths: Sequence[Path], model: str | None = None) -> ImportedFile:
    """Read CAA's files, one a layer, of one model: `model` chooses where there are several."""
    matches = {path: CAA_NAME.fullmatch(path.name) for path in paths}
    models = sorted({m[2] or "" for m in matches.values() if m})
    if model is None and len(models) > 1:
        raise VectorInvalid(
            f"there are CAA vectors of {len(models)} models: {', '.join(models)}; choose one with "
            "model, or give one file",
            param="model",
            code="several_vectors",
        )
    chosen = {path: m for path, m in matches.items() if m and model in (None, m[2])}
    if not chosen:
        raise VectorInvalid(
            f"no CAA vector is of model {shown(model)}; there are {', '.join(models)}",
            param="model",
        )
    parts = [_part(path, layer_number(path.name, m[1])) for path, m in chosen.items()]
    hint = model or models[0]
    return ImportedFile(CAA, tuple(parts), {"model_hint": hint} if hint else {})


def read_easy_edit(paths: Sequence[Path]) -> ImportedFile:
    """Read EasyEdit's files, one a layer."""
    parts = []
    for path in paths:
        if match := EASY_EDIT_NAME.fullmatch(path.name):
            parts.append(_part(path, layer_number(path.name, match[1])))
    return ImportedFile(EASY_EDIT, tuple(parts))


def read_refusal(path: Path) -> ImportedFile:
    """Read `direction.pt` and the `{"pos", "layer"}` beside it."""
    try:
        metadata = json.loads((path.parent / REFUSAL_METADATA).read_bytes())
    except (ValueError, RecursionError) as error:
        raise VectorInvalid(
            f"{REFUSAL_METADATA} is not JSON", param=REFUSAL_METADATA, code="bad_metadata"
        ) from error
    layer = metadata.get("layer") if isinstance(metadata, dict) else None
    if type(layer) is not int or not 0 <= layer <= 9999:
        raise VectorInvalid(
            f'{REFUSAL_METADATA} must hold {{"pos": token, "layer": block}}, with a block from 0, '
            f"and holds {shown(metadata)}",
            param=REFUSAL_METADATA,
            code="bad_metadata",
        )
    check_operations(metadata)
    pos = metadata.get("pos")
    return ImportedFile(REFUSAL, (_part(path, layer),), {"pos": pos} if type(pos) is int else {})


def _part(path: Path, number: int) -> ImportedTensor:
    return imported_tensor(number, path.name, squeezed(_load(path)))


def _load(path: Path) -> object:
    check_unpacked(path)
    try:
        # Opened here, because torch.load goes by the suffix of a path.
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    # RuntimeError: a broken zip; the others: a broken or a forbidden pickle.
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError,
            AttributeError, TypeError, UnicodeDecodeError, AssertionError, MemoryError, OSError,
            OverflowError, struct.error, ImportError) as error:  # fmt: skip
        if isinstance(error, OSError) and not path.is_file():
            raise
        reason = str(error).partition("\n")[0]
        raise VectorInvalid(
            f"{path.name} is cut off, or holds something other than tensors, which is never run "
            f"({shown(reason)}); save the tensor alone, with torch.save(tensor, file)",
            param="file",
            code="pickle",
        ) from error
