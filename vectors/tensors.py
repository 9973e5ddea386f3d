"""Names of tensors: `<site>.<layer>`."""

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from steersman.vectors.errors import VectorInvalid, shown

if TYPE_CHECKING:
    import torch

SITES: Final = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""TransformerLens' names for the places in a block where a vector can be added."""


class HookPoint(NamedTuple):
    """A site of one decoder block; equal to the plain tuple `(site, layer)`.

    `HookPoint("resid_post", 14)` is the output of block 14.
    """

    site: str
    """One of `SITES`."""
    layer: int
    """0-based index of the block."""


_NAME: Final = re.compile(rf"({'|'.join(SITES)})\.(0|[1-9][0-9]{{0,3}})", re.ASCII)


def tensor_name(key: tuple[str, int]) -> str:
    """The safetensors key of a hook point, `resid_post.14`."""
    site, layer = key
    return f"{site}.{layer}"


def parse_tensor_name(name: str) -> HookPoint:
    """The hook point of a tensor name; raises `VectorInvalid` for a name in another form."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise VectorInvalid(
            f"unknown tensor {shown(name)}; name tensors <site>.<layer>, as in 'resid_post.14', "
            f"with a site out of {', '.join(SITES)}",
            param=name[:128],
            code="unknown_tensor",
        )
    return HookPoint(match[1], int(match[2]))


def check_shape(name: str, shape: tuple[int, ...]) -> int:
    """The hidden size of `shape`, [hidden] or [steps, hidden]; raises `VectorInvalid` for any other
    shape."""
    if len(shape) not in (1, 2) or min(shape) < 1:
        raise VectorInvalid(
            f"tensor {name!r} has shape {list(shape[:8])}; it must be [hidden], or [steps, hidden] "
            "with a vector for each generated token, and not be empty",
            param=name,
            code="bad_shape",
        )
    return shape[-1]


def check_one_hidden_size(sizes: dict[str, int]) -> int:
    """The hidden size of all tensors; raises `VectorInvalid` if they differ, or if there is no
    tensor."""
    if not sizes:
        raise VectorInvalid(
            "the file holds no tensor; it needs at least one, named like 'resid_post.14'",
            code="no_tensors",
        )
    first, hidden = next(iter(sizes.items()))
    for name, size in sizes.items():
        if size != hidden:
            raise VectorInvalid(
                f"tensor {name!r} has hidden size {size} and {first!r} has {hidden}; "
                "all tensors of a vector must have one size",
                param=name,
                code="mixed_hidden_sizes",
            )
    return hidden


_SMALLEST: Final = 2.0**-126


def is_nothing(tensor: "torch.Tensor") -> bool:
    """Whether `tensor`, floats of any shape, is all zeros, or so close to zero (below float32's
    smallest normal number) that no coefficient makes it steer."""
    return not bool((tensor.abs() >= _SMALLEST).any())
