"""Makes a vector of the content of a file: each part at its layer, and a note of its origin."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.file.operation import refuse_unserved
from steersman.vectors.formats.conventions import LayerConvention
from steersman.vectors.formats.imported import ImportedFile, ImportedTensor, Options
from steersman.vectors.hook_names import as_steered, steered_place
from steersman.vectors.operation import Operation
from steersman.vectors.tensors import (
    SITES,
    HookPoint,
    check_one_hidden_size,
    is_nothing,
    tensor_name,
)
from steersman.vectors.vector import BaseModel, SteeringVector

SITE = "resid_post"


def build(
    found: ImportedFile,
    options: Options,
    *,
    file: str,
    name: str | None,
    site: str | None,
    as_extracted: bool,
    base: BaseModel | None = None,
    licence: str | None = None,
) -> SteeringVector:
    """The vector of `found`; `options.numbers` are its default layers as the file counts.

    The metadata keeps, under `method_settings.imported`, the file's own name for each tensor, both
    places and the choice between them, and what was left out: what is before the first block or
    past the last, and what is all zeros. Raises `VectorInvalid`.
    """
    refuse_unserved(found.operation)
    place, where = _place(found, site, as_extracted)
    check_one_hidden_size({part.name: part.tensor.shape[-1] for part in found.tensors})
    depth = options.num_layers or (base.num_layers if base else None) or found.num_layers
    placed = _placed(found.tensors, place, where)
    kept = {
        key: placed[key]
        for key in sorted(placed)
        if key[1] >= 0 and (depth is None or key[1] < depth) and not is_nothing(placed[key].tensor)
    }
    before = [part.name for key, part in placed.items() if key[1] < 0]
    beyond = [p.name for key, p in placed.items() if depth is not None and key[1] >= depth]
    zero = [p.name for key, p in placed.items() if is_nothing(p.tensor) and p.name not in before]
    if not kept:
        raise _nothing_left(place, before, beyond, zero, depth)
    tensors = {key: part.tensor for key, part in kept.items()}
    imported = {
        "format": found.rule.format,
        "library": found.rule.library,
        "file": file,
        "applied_at": _words(found),
        "extracted_at": found.rule.extracted.words if found.rule.extracted else None,
        "as_extracted": as_extracted,
        "site": site,
        "layer_shift": place.shift,
        "tensors": {tensor_name(key): part.name for key, part in kept.items()},
        "left_out": before,
        "left_out_past_last_block": beyond,
        "left_out_zero": zero,
        "warnings": list(found.warnings),
        "dtype": sorted({part.dtype for part in found.tensors}),
        **found.details,
    }
    return SteeringVector(
        tensors,
        name=name,
        method="imported",
        method_settings={"imported": {k: v for k, v in imported.items() if v not in (None, [])}},
        base_model=_base_model(base, found, next(iter(tensors.values()))),
        coefficient=found.coefficient,
        operation=Operation(found.operation),
        layers=_defaults(found, options.numbers, kept),
        positions=found.rule.positions,
        norms={tensor_name(key): float(tensor.norm()) for key, tensor in tensors.items()},
        licence=licence or found.licence,
    )


def fitted(vector: SteeringVector, num_layers: int | None) -> tuple[SteeringVector, list[str]]:
    """A vector of our own format with what this model can steer of it, and a list of the parts past
    its last block.

    `resid_pre.L` becomes `resid_post.(L-1)`. Raises `VectorInvalid` if nothing is left.
    """
    vector = as_steered(vector)
    beyond = [key for key in vector.tensors if num_layers is not None and key[1] >= num_layers]
    if not beyond:
        return vector, []
    names = [tensor_name(key) for key in beyond]
    tensors = {key: t for key, t in vector.tensors.items() if key not in beyond}
    layers = tuple(n for n in vector.layers if num_layers is not None and n < num_layers)
    if not tensors or not layers:
        raise _nothing_left(LayerConvention("output of block N", 0), [], names, [], num_layers)
    return replace(
        vector,
        tensors=tensors,
        layers=tuple(n for n in layers if n in {layer for _, layer in tensors}),
        norms={name: norm for name, norm in vector.norms.items() if name not in names},
    ), names


def as_numbers(layer: int | Iterable[int] | None) -> tuple[int, ...] | None:
    """`layer` as a tuple of layer numbers; raises `VectorInvalid`."""
    if layer is None:
        return None
    numbers = (layer,) if isinstance(layer, int) else tuple(layer)
    if not numbers or any(type(n) is not int or not 0 <= n <= 9999 for n in numbers):
        raise VectorInvalid("layer must be one or more block numbers from 0", param="layer")
    return numbers


def _place(
    found: ImportedFile, site: str | None, as_extracted: bool
) -> tuple[LayerConvention, str | None]:
    """The place of the parts whose file names no other place, and the site that overrides the
    file's."""
    if site is not None and site not in SITES:
        raise VectorInvalid(f"site must be one of {', '.join(SITES)}", param="site")
    if site is not None and as_extracted:
        raise VectorInvalid("give site or as_extracted, not both", param="site")
    said = {part.site for part in found.tensors} - {SITE}
    if said and (site is not None or as_extracted):
        raise VectorInvalid(
            f"the tensors of this file name their hook points ({', '.join(sorted(said))}); leave "
            "out site and as_extracted",
            param="site" if site is not None else "as_extracted",
        )
    if site == "resid_pre":
        return LayerConvention("input of block N", -1), SITE
    if site is not None:
        return LayerConvention(f"{site} of block N", 0), site
    if not as_extracted:
        return found.rule.applied, None
    if found.rule.extracted is None:
        raise VectorInvalid(
            f"this {found.rule.format} file does not name the tool that made it, so where its "
            "vectors were extracted is not known; import it without as_extracted",
            param="as_extracted",
        )
    return found.rule.extracted, None


def _placed(
    parts: Sequence[ImportedTensor], place: LayerConvention, where: str | None
) -> dict[HookPoint, ImportedTensor]:
    placed: dict[HookPoint, ImportedTensor] = {}
    for part in parts:
        shift = place.shift if part.site == SITE else 0
        site = where or part.site
        key = (site, part.number + shift)
        key = steered_place(key, part.name)
        if key in placed:
            raise VectorInvalid(
                f"{part.name!r} and {placed[key].name!r} are both for "
                f"{tensor_name(key)}; keep one of them",
                param=part.name[:128],
                code="duplicate_hook_point",
            )
        placed[key] = part
    return placed


def _nothing_left(
    place: LayerConvention, before: list[str], beyond: list[str], zero: list[str], depth: int | None
) -> VectorInvalid:
    if beyond:
        return VectorInvalid(
            f"{_listed(beyond)} is past the last block: the model has {depth} blocks, 0 to "
            f"{(depth or 1) - 1}, so nothing of this file fits it",
            param="layer",
            code="layer_out_of_range",
        )
    if zero and not before:
        return VectorInvalid(
            f"{_listed(zero)} is all zeros, or as good as that, and there is nothing else: it "
            "would steer nothing",
            param=zero[0][:128],
            code="all_zero",
        )
    return VectorInvalid(
        f"{_listed(before)} belongs at the {place.words}, before the first block, and "
        "only outputs of blocks can be steered; with as_extracted it goes where it was read",
        param="layer",
        code="layer_out_of_range",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(shown(name) for name in names[:5]) + (" and others" if len(names) > 5 else "")


def _words(found: ImportedFile) -> str:
    """In words, where the file's own tool adds its vectors."""
    sites = {part.site for part in found.tensors}
    if sites == {SITE}:
        return found.rule.applied.words
    return f"{', '.join(sorted(sites))} of block N"


def _defaults(
    found: ImportedFile, numbers: Sequence[int] | None, kept: Mapping[HookPoint, ImportedTensor]
) -> tuple[int, ...]:
    """Default layers, from `numbers` in the counting of the file; () for all."""
    if numbers is None:
        return ()
    there = sorted({part.number for part in kept.values()})
    for number in numbers:
        if number not in there:
            raise VectorInvalid(
                f"layer {number} is not in this file or was left out; it has "
                f"{', '.join(map(str, there))} (as the file counts them)",
                param="layer",
                code="layer_not_in_vector",
            )
    layers = {layer for (_, layer), part in kept.items() if part.number in numbers}
    for key, part in kept.items():
        if key[1] in layers and part.number not in numbers:
            raise VectorInvalid(
                f"{part.name!r} is steered at block {key[1]} as well, and layers of a vector are "
                "chosen for all its sites at once; import its sites as files of their own",
                param="layer",
            )
    return tuple(sorted(layers))


def _base_model(base: BaseModel | None, found: ImportedFile, sample: torch.Tensor) -> BaseModel:
    return BaseModel(
        id=(base.id if base else None) or found.model,
        hidden_size=(base.hidden_size if base else None) or sample.shape[-1],
        num_layers=(base.num_layers if base else None) or found.num_layers,
    )
