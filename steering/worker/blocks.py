"""Finds a model's blocks, and their attention and MLP, by structure and not by name."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from steersman.steering.plan.errors import NotInstrumentable


@dataclass(frozen=True)
class Block:
    """One decoder block.

    `attn` and `mlp` are None if their output does not join the residual stream unchanged, or if
    they cannot be identified. `attn` is the module that mixes tokens: in a block of a hybrid model,
    its state-space layer or convolution.
    """

    layer: int
    module: nn.Module
    attn: nn.Module | None
    mlp: nn.Module | None
    split: bool = True
    """Whether a second tensor in the block's output belongs to the stream: their sum is it."""
    mid: nn.Module | None = None
    """The module that gets the stream between attention and MLP, whole or in two parts, of which
    what is added to the last stays in the stream; None if there is none."""
    aliases: frozenset[str] = frozenset()
    """Sites at which an addition changes the block's output by itself and in no other way."""


class LayerTypes(NamedTuple):
    """The engine's classes by which the children of a block are recognised."""

    mixer: type
    """Base of every attention and state-space layer with a cache."""
    matrix: type
    """Base of every linear layer."""
    elsewhere: type
    """Placeholder of a block that another stage of a pipeline has."""


def find_blocks(model: nn.Module, num_layers: int, types: LayerTypes) -> list[Block]:
    """The decoder blocks of `model` that are here, in order, each with its possible branches (see
    `probe_blocks`).

    The decoder is the only ModuleList with `num_layers` entries that hold `types.mixer` layers; in
    a multimodal model, that of its language model. Raises `NotInstrumentable` if there is none, or
    more than one.
    """
    text: nn.Module = getattr(model, "get_language_model", lambda: model)()
    lists = {
        # By what is in it: a model may keep its blocks in a second list as well.
        tuple(m): name
        for name, m in reversed(list(text.named_modules()))
        if isinstance(m, nn.ModuleList) and len(m) == num_layers and _holds(m, types.mixer)
    }
    if len(lists) != 1:
        names = ", ".join(reversed(lists.values())) or "none"
        raise NotInstrumentable(
            f"expected one list of {num_layers} decoder blocks in {type(model).__name__}, "
            f"found: {names}. This architecture cannot be steered by this version."
        )
    (modules,) = lists
    return [
        Block(n, module, *_branches(module, types))
        for n, module in enumerate(modules)
        if not isinstance(module, types.elsewhere)
    ]


def _holds(module: nn.Module, kind: type) -> bool:
    """Whether `module` is or contains a layer of that kind."""
    return any(isinstance(m, kind) for m in module.modules())


def _branches(block: nn.Module, types: LayerTypes) -> tuple[nn.Module | None, nn.Module | None]:
    """The only child that mixes tokens, and the only other child with linear layers."""
    mixers = [c for c in block.children() if _holds(c, types.mixer)]
    # By layer type: the CPU backend packs weights away and leaves empty parameters behind. (The
    # router of a mixture of experts is such a layer too.)
    rest = [c for c in block.children() if c not in mixers and _holds(c, types.matrix)]
    return (
        mixers[0] if len(mixers) == 1 else None,
        rest[0] if len(rest) == 1 else None,
    )
