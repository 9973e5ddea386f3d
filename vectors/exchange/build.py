"""From what a file holds to a vector: every part to its layer, and a note of where it came from."""

from collections.abc import Iterable, Sequence

import torch

from vectors.errors import VectorInvalid
from vectors.exchange.found import Found, Part
from vectors.exchange.rules import Place
from vectors.tensors import SITES, TensorKey, check_one_hidden_size, tensor_name
from vectors.vector import BaseModel, SteeringVector

SITE = "resid_post"


def build(
    found: Found,
    *,
    file: str,
    name: str | None,
    numbers: Sequence[int] | None,
    site: str | None,
    as_extracted: bool,
    base: BaseModel | None = None,
    licence: str | None = None,
) -> SteeringVector:
    """The vector of `found`; `numbers` are its default layers as the file counts.

    The metadata keeps, under `method_settings.imported`, the file's own name for each tensor, both
    places and the choice between them. Raises `VectorInvalid`.
    """
    place = _place(found, site, as_extracted)
    check_one_hidden_size({part.name: part.tensor.shape[-1] for part in found.parts})
    where = site or SITE
    placed: dict[TensorKey, Part] = {}
    for part in found.parts:
        key = (where, part.number + place.shift)
        if key in placed:
            raise VectorInvalid(
                f"{part.name!r} and {placed[key].name!r} are for one layer", param=part.name
            )
        placed[key] = part
    left_out = [part.name for (_, layer), part in placed.items() if layer < 0]
    placed = {key: placed[key] for key in sorted(placed) if key[1] >= 0}
    if not placed:
        raise VectorInvalid(
            f"{', '.join(left_out)} belongs at the {place.words}, before the first block, and "
            "only outputs of blocks can be steered; with as_extracted it goes where it was read, "
            "with site='resid_pre' it is kept as it is",
            param="layer",
            code="layer_out_of_range",
        )
    tensors = {key: part.tensor for key, part in placed.items()}
    imported = {
        "format": found.rule.format,
        "library": found.rule.library,
        "file": file,
        "applied_at": found.rule.applied.words,
        "extracted_at": found.rule.extracted.words if found.rule.extracted else None,
        "as_extracted": as_extracted,
        "site": site,
        "layer_shift": place.shift,
        "tensors": {tensor_name(key): part.name for key, part in placed.items()},
        "left_out": left_out,
        "dtype": sorted({part.dtype for part in found.parts}),
        **found.details,
    }
    return SteeringVector(
        tensors,
        name=name,
        method="imported",
        method_settings={"imported": {k: v for k, v in imported.items() if v not in (None, [])}},
        base_model=_base_model(base, found, next(iter(tensors.values()))),
        layers=_defaults(found, numbers, place) if numbers is not None else (),
        positions=found.rule.positions,
        norms={tensor_name(key): float(tensor.norm()) for key, tensor in tensors.items()},
        licence=licence,
    )


def as_numbers(layer: int | Iterable[int] | None) -> tuple[int, ...] | None:
    """`layer` as a tuple of layer numbers; raises `VectorInvalid`."""
    if layer is None:
        return None
    numbers = (layer,) if isinstance(layer, int) else tuple(layer)
    if not numbers or any(type(n) is not int or not 0 <= n <= 9999 for n in numbers):
        raise VectorInvalid("layer must be one or more block numbers from 0", param="layer")
    return numbers


def _place(found: Found, site: str | None, as_extracted: bool) -> Place:
    if site is not None and site not in SITES:
        raise VectorInvalid(f"site must be one of {', '.join(SITES)}", param="site")
    if site is not None and as_extracted:
        raise VectorInvalid("give site or as_extracted, not both", param="site")
    if site is not None:
        return Place(f"{site} of block N", 0)
    if not as_extracted:
        return found.rule.applied
    if found.rule.extracted is None:
        raise VectorInvalid(
            f"nothing in this {found.rule.format} file says which tool made it, so where its "
            "vectors were extracted is not known; import it without as_extracted",
            param="as_extracted",
        )
    return found.rule.extracted


def _defaults(found: Found, numbers: Sequence[int], place: Place) -> tuple[int, ...]:
    there = sorted(part.number for part in found.parts if part.number + place.shift >= 0)
    for number in numbers:
        if number not in there:
            raise VectorInvalid(
                f"layer {number} is not in this file, which has {', '.join(map(str, there))} "
                "(as the file counts them)",
                param="layer",
                code="layer_not_in_vector",
            )
    return tuple(number + place.shift for number in numbers)


def _base_model(base: BaseModel | None, found: Found, sample: torch.Tensor) -> BaseModel:
    return BaseModel(
        id=base.id if base else None,
        hidden_size=(base.hidden_size if base else None) or sample.shape[-1],
        num_layers=(base.num_layers if base else None) or found.num_layers,
    )
