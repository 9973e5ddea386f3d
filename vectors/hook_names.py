"""Other names for a place in a block, and the one that is steered.

A block's input is the output of the block before it, so `resid_pre.12` is `resid_post.11`: one
place with two names, of which the engine steers the second. `blocks.12.hook_resid_pre` is
TransformerLens' spelling of the first.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.tensors import SITES, HookPoint, tensor_name
from steersman.vectors.vector import SteeringVector

_SITES: Final = "|".join(SITES)
_LAYER: Final = r"(?P<layer>0|[1-9][0-9]{0,3})"
_SPELLINGS: Final = (
    re.compile(rf"(?P<site>{_SITES})\.{_LAYER}", re.ASCII),
    re.compile(rf"blocks\.{_LAYER}\.hook_(?P<site>{_SITES})", re.ASCII),
)


def parse_hook_name(name: str) -> HookPoint | None:
    """The hook point of `name`, such as `resid_post.14` or `blocks.14.hook_resid_post`; or None.

    The site is the one that is written: `steered_place` has the one that is steered.
    """
    for spelling in _SPELLINGS:
        if match := spelling.fullmatch(name):
            return HookPoint(match["site"], int(match["layer"]))
    return None


def steered_place(key: tuple[str, int], name: str | None = None) -> HookPoint:
    """`resid_pre.L` as `resid_post.(L-1)`; any other place as it is.

    `name` is what the file calls it, for the message. Raises `VectorInvalid` for `resid_pre.0`,
    which is the embeddings and the output of no block.
    """
    site, layer = key
    if site != "resid_pre":
        return HookPoint(site, layer)
    if layer == 0:
        written = name or tensor_name(key)
        raise VectorInvalid(
            f"tensor {written!r} belongs at the input of block 0, before the first block, and only "
            "outputs can be steered; leave it out",
            param=written[:128],
            code="layer_out_of_range",
        )
    return HookPoint("resid_post", layer - 1)


def steered_places(keys: Iterable[HookPoint]) -> dict[HookPoint, HookPoint]:
    """Each of `keys` and where it is steered.

    Raises `VectorInvalid` for `resid_pre.0`, and for two that are one place (`resid_pre.12` and
    `resid_post.11`).
    """
    places: dict[HookPoint, HookPoint] = {}
    taken: dict[HookPoint, HookPoint] = {}
    for key in keys:
        place = steered_place(key)
        if place in taken:
            raise VectorInvalid(
                f"tensors {tensor_name(taken[place])!r} and {tensor_name(key)!r} are for one "
                f"place, {tensor_name(place)}: the input of a block is the output of the block "
                "before it; keep one of them",
                param=tensor_name(key),
                code="duplicate_hook_point",
            )
        taken[place] = key
        places[key] = place
    return places


def as_steered(vector: SteeringVector) -> SteeringVector:
    """`vector` with every `resid_pre.L` as `resid_post.(L-1)`; itself where it has none.

    Tensors stay float32 [hidden] or [steps, hidden]. Default layers and norms move along. Raises
    `VectorInvalid` as `steered_places`, and where the default layers would then include a tensor
    that they leave out now.
    """
    if all(site != "resid_pre" for site, _ in vector.tensors):
        return vector
    places = steered_places(vector.tensors)
    layers = {place[1] for key, place in places.items() if key[1] in vector.layers}
    for key, place in places.items():
        if place[1] in layers and key[1] not in vector.layers:
            raise VectorInvalid(
                f"the default layers leave out {tensor_name(key)!r}, but would include it "
                "once it counts as the output of the block before; in the file, name such tensors "
                "resid_post of the block before, and set the default layers to match",
                param="layers",
            )
    names = {tensor_name(key): tensor_name(place) for key, place in places.items()}
    return replace(
        vector,
        tensors={places[key]: tensor for key, tensor in vector.tensors.items()},
        numbers={places[key]: numbers for key, numbers in vector.numbers.items()},
        layers=tuple(sorted(layers)),
        norms={names.get(name, name): norm for name, norm in vector.norms.items()},
    )
