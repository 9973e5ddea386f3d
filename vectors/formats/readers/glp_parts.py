"""The directions of a file with `glp.*` keys, checked against them."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.file.glp import Glp
from steersman.vectors.formats.conventions import FormatRule, measured_where_applied
from steersman.vectors.formats.imported import ImportedFile, ImportedTensor, imported_tensor
from steersman.vectors.tensors import is_nothing

_NAME: Final = re.compile(r"direction\.([0-9]{1,4})(?:\.([0-9]{1,3}))?", re.ASCII)
_ORTHONORMAL: Final = 1e-3
"""How far products of the directions of one layer may be from 0 and 1, as weightless checks it."""


def glp_found(glp: Glp, tensors: Mapping[str, torch.Tensor], rule: FormatRule) -> ImportedFile:
    """The parts of `tensors`, `direction.N` and `direction.N.j`, as `glp` describes them.

    Added directions carry their scales, and those of one layer are summed, since h + a d0 + b d1 is
    h + (a d0 + b d1). Directions to be projected out stay as they are, [rank, hidden] if there are
    several; scales would have to go beside each, and are refused. The default coefficient stays
    apart. Raises `VectorInvalid` naming the key or the tensor.
    """
    by_layer: dict[int, dict[int, ImportedTensor]] = {}
    for name, tensor in tensors.items():
        layer, index = _numbers(name)
        if index in by_layer.setdefault(layer, {}):
            raise _bad(name, "is there twice under two names")
        found = imported_tensor(layer, name, tensor, glp.site)
        if is_nothing(found.tensor):
            raise _bad(name, "is all zeros, which is not a direction; leave the layer out")
        by_layer[layer][index] = found
    _check_sha256(glp, tensors)
    for layer, parts in sorted(by_layer.items()):
        _check_basis(glp, layer, parts)
    if glp.layers is not None and list(glp.layers) != sorted(by_layer):
        raise _key(
            "glp.layer_ids_zero_based",
            f"lists blocks {shown(list(glp.layers))} and the tensors are for "
            f"{shown(sorted(by_layer))}",
        )
    if absent := sorted(set(glp.layer_scales or ()) - set(by_layer)):
        raise _key(
            "glp.layer_scales",
            f"has scales for blocks {shown(absent)}, which have no direction in the file; it may "
            "be incomplete: fetch it again, or leave these scales out",
        )
    if glp.operation == "project":
        _check_unscaled(glp)
    return ImportedFile(
        measured_where_applied(rule) if glp.measured_there else rule,
        tuple(_summed(glp, layer, parts) for layer, parts in sorted(by_layer.items())),
        {"glp": dict(glp.provenance or {})},
        coefficient=glp.coefficient,
        operation=glp.operation,
        warnings=glp.warnings,
    )


def check_content(glp: Glp | None, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise `VectorInvalid` if the hash of `tensors`, whatever their names, is not the one in the
    file."""
    if glp is not None:
        _check_sha256(glp, tensors)


def _numbers(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise _bad(
            name, "is unknown; a control vector has only direction.N, or direction.N.j in GLP"
        )
    layer, index = int(match[1]), int(match[2] or 0)
    if layer == 0:
        raise _bad(name, "is not valid in GLP, which counts blocks from 1; leave it out")
    return layer, index


def _check_basis(glp: Glp, layer: int, parts: Mapping[int, ImportedTensor]) -> None:
    if sorted(parts) != list(range(glp.rank)):
        raise _key(
            "glp.rank",
            f"is {glp.rank} and block {layer} has the {len(parts)} directions "
            f"{', '.join(shown(part.name) for part in parts.values())}",
        )
    if glp.rank == 1:
        return
    sizes = {part.tensor.numel() for part in parts.values()}
    if len(sizes) > 1:
        raise VectorInvalid(
            f"the directions of block {layer} have the hidden sizes {sorted(sizes)}; all tensors "
            "of a vector must have one size",
            param=f"direction.{layer}",
            code="mixed_hidden_sizes",
        )
    basis = torch.stack([parts[index].tensor for index in range(glp.rank)]).double()
    off = float((basis @ basis.T - torch.eye(glp.rank, dtype=torch.float64)).abs().max())
    if off > _ORTHONORMAL:
        raise _key(
            "glp.orthonormal",
            f"says true, and products of the directions of block {layer} are off by {off:.3g}",
        )


def _check_unscaled(glp: Glp) -> None:
    for key, scales in (
        ("glp.dir_scales", glp.dir_scales),
        ("glp.layer_scales", (glp.layer_scales or {}).values()),
    ):
        if any(scale != 1.0 for scale in scales):
            raise _key(
                key,
                "gives directions that are projected out strengths of their own, and here a use of "
                "a vector has one coefficient for all; import a file for each strength",
            )


def _summed(glp: Glp, layer: int, parts: Mapping[int, ImportedTensor]) -> ImportedTensor:
    first = parts[0]
    if glp.operation == "project" and glp.rank > 1:
        basis = torch.stack([parts[index].tensor for index in range(glp.rank)])
        return replace(first, tensor=basis)
    # The strength of a projection is never in its direction: the operation takes it beside it.
    if glp.operation != "add" or (glp.rank == 1 and glp.scale(layer, 0) == 1.0):
        return first
    total = sum(
        (glp.scale(layer, index) * part.tensor.double() for index, part in parts.items()),
        torch.zeros_like(first.tensor, dtype=torch.float64),
    )
    return imported_tensor(layer, first.name, total.float(), glp.site)


def _check_sha256(glp: Glp, tensors: Mapping[str, torch.Tensor]) -> None:
    if glp.content_sha256 is None:
        return
    keys = {name: tuple(map(int, re.findall(r"[0-9]+", name))) for name in tensors}
    by_layer = sorted(tensors, key=lambda name: keys[name])
    # The specification leaves the order within a layer to the writer: by layer, or by direction.
    by_direction = sorted(tensors, key=lambda name: (keys[name][1:], keys[name][:1]))
    if glp.content_sha256 not in (_sha256(tensors, by_layer), _sha256(tensors, by_direction)):
        raise _key(
            "glp.content_sha256",
            "is not that of the tensors in the file, which was damaged or changed: fetch it again",
        )


def _sha256(tensors: Mapping[str, torch.Tensor], names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _key(key: str, reason: str) -> VectorInvalid:
    return VectorInvalid(f"the key {key} {reason}", param=key, code="bad_glp")


def _bad(name: str, reason: str) -> VectorInvalid:
    return VectorInvalid(f"tensor {shown(name)} {reason}", param=name[:128], code="unknown_tensor")
