"""Finding a model's blocks, and their attention and MLP, by structure rather than by name."""

from dataclasses import dataclass

from torch import nn


class NotInstrumentable(RuntimeError):
    """The model is not one that Steersman can steer; the message says what is missing."""


@dataclass(frozen=True)
class Block:
    """One decoder block. `attn` and `mlp` are None where their output is not what joins the
    residual stream (post-norms, parallel branches) or where they cannot be told apart."""

    layer: int
    module: nn.Module
    attn: nn.Module | None
    mlp: nn.Module | None


def find_blocks(model: nn.Module, num_layers: int, *, plain: bool = True) -> list[Block]:
    """Blocks of `model`, in order; their branches only where `plain` says that nothing scales them.

    The decoder is the ModuleList of `num_layers` entries whose blocks hold an attention (or
    state-space) layer. Raises `NotInstrumentable` when there is no such list, or more than one, or
    a block without such a layer.
    """
    lists = [
        (name, m)
        for name, m in model.named_modules()
        if isinstance(m, nn.ModuleList)
        and len(m) == num_layers
        and any(_is_block(child) for child in m)
    ]
    if len(lists) != 1:
        names = ", ".join(name for name, _ in lists) or "none"
        raise NotInstrumentable(
            f"expected one list of {num_layers} decoder blocks in {type(model).__name__}, "
            f"found: {names}. This architecture cannot be steered by this version."
        )
    blocks = []
    for layer, module in enumerate(lists[0][1]):
        if not _is_block(module):
            raise NotInstrumentable(f"block {layer} ({type(module).__name__}) has no attention")
        attn, mlp = _branches(module) if plain else (None, None)
        blocks.append(Block(layer, module, attn, mlp))
    return blocks


def _is_mixer(module: nn.Module) -> bool:
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

    return isinstance(module, AttentionLayerBase)


def _is_block(module: nn.Module) -> bool:
    return any(_is_mixer(m) for m in module.modules())


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _branches(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """The attention and MLP of a plain pre-norm block, whose outputs join the residual directly."""
    children = list(block.children())
    norms = [c for c in children if _is_norm(c)]
    mixers = [c for c in children if _is_block(c)]
    rest = [c for c in children if c not in norms and c not in mixers and _has_matrix(c)]
    if len(norms) != 2 or len(mixers) != 1 or len(rest) != 1:
        return None, None
    return mixers[0], rest[0]


def _has_matrix(module: nn.Module) -> bool:
    # By layer type: the CPU backend packs weights away and leaves empty parameters behind. (The
    # router of a mixture of experts is such a layer too.)
    from vllm.model_executor.layers.linear import LinearBase

    return any(isinstance(m, LinearBase) for m in module.modules())
