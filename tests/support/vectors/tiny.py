"""A tiny Llama and its residual stream, for probing which block a vector moves."""

from typing import Any

import torch
from safetensors.torch import load_file

HIDDEN = 8
LAYERS = 4


def tiny_model(seed: int | None = None, weights: Any = None) -> Any:
    """Random weights of `seed`, or those of the file `weights`. Four blocks, hidden size 8."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32, hidden_size=HIDDEN, intermediate_size=HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    config._attn_implementation = "eager"
    if seed is not None:
        torch.manual_seed(seed)
    model = LlamaForCausalLM(config).float().eval()
    if weights is not None:
        model.load_state_dict(load_file(weights))
    elif seed is not None:
        # Larger than initialised, so that blocks change the stream as much as a vector does.
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" not in name:
                    parameter.mul_(20)
    return model


@torch.no_grad()
def residuals(model: Any, tokens: list[list[int]]) -> torch.Tensor:
    """What the blocks 0..3 hand on, after whatever steers them: [4, tokens, hidden].

    Taken at the inputs of the next block, and of the final norm, so that a vector added to an
    output or to the next input is seen alike.
    """
    seen: list[torch.Tensor] = []

    def take(_module: Any, arguments: tuple[torch.Tensor, ...], named: dict[str, Any]) -> None:
        seen.append((arguments[0] if arguments else named["hidden_states"])[0].clone())

    readers = [*list(model.model.layers)[1:], model.model.norm]
    # The innermost module of a wrapper has what the wrapper added before the block.
    inner = [getattr(m, "block", m) for m in readers]
    handles = [m.register_forward_pre_hook(take, with_kwargs=True) for m in inner]
    try:
        model(torch.tensor(tokens))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(seen)
