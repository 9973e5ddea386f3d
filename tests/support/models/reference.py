"""A Hugging Face model of any family, no cache, with a forward hook where something is added."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.models.family import FIRST_STEERED, PROMPT, Family


def hugging_face_class(family: Family) -> Any:
    import transformers

    return getattr(transformers, family.auto)


class Reference:
    """The model that `make` saved in `place`."""

    def __init__(self, family: Family, place: Path) -> None:
        self.family = family
        self.model = (
            hugging_face_class(family)
            .from_pretrained(place / "model", dtype=torch.float32, attn_implementation="eager")
            .eval()
        )
        self.blocks = self.model.get_submodule(family.blocks)

    def take_activation_of_vllm(self) -> None:
        """Where vLLM's differs from Hugging Face's: nothing of Steersman's is in that."""
        from transformers.activations import ACT2FN

        place, name = self.family.activation
        for block in self.blocks if place else ():
            block.set_submodule(place, ACT2FN[name])

    def stream_norms(self) -> list[float]:
        """Median length of the residual stream before each block, and once more of the last: what
        comes after that is normed already."""
        states = self._run(list(PROMPT), output_hidden_states=True).hidden_states[:-1]
        norms = [float(state[0, 1:].norm(dim=-1).median()) for state in states]
        return [*norms, norms[-1]]

    def logprobs(self, tokens: list[int]) -> Tensor:
        """Of the next token after each: [tokens, vocabulary]."""
        return torch.log_softmax(self._run(tokens).logits[0].float(), dim=-1)

    def steered_logprobs(self, tokens: list[int], site: str, layer: int, v: Tensor) -> Tensor:
        """The same, with `v` added to the output of that part of the model, or for `resid_mid` to
        the stream that a norm gets, in place: the block goes on with it."""
        change = (torch.arange(len(tokens)) >= FIRST_STEERED).float()[:, None] * v

        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (output[0] + change, *output[1:])
            return output + change

        def before(_module: nn.Module, inputs: Any) -> None:
            inputs[0].add_(change)

        if site == "resid_mid":
            norm: nn.Module = getattr(self.blocks[layer], self.family.mid)
            handle = norm.register_forward_pre_hook(before)
        else:
            handle = self._part(site, layer).register_forward_hook(hook)
        try:
            return self.logprobs(tokens)
        finally:
            handle.remove()

    def _part(self, site: str, layer: int) -> nn.Module:
        block: nn.Module = self.blocks[layer]
        if site == "resid_post":
            return block
        names = self.family.attn if site == "attn_out" else self.family.mlp
        part: nn.Module
        (part,) = [getattr(block, name) for name in names if getattr(block, name, None) is not None]
        return part

    def _run(self, tokens: list[int], **options: Any) -> Any:
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([tokens]), use_cache=False, **options)
