"""The residual stream of texts, read with plain forward hooks on a Hugging Face model.

Layer L is the output of block L (`resid_post.L`). The hooks read it there, because Hugging Face's
last `hidden_states` entry is taken after the final norm and is not a residual stream.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from vectors.demo.errors import DemoError

# What the texts are an answer to. The model is steered while it answers, so it is read there too.
QUESTION = "Write a sentence."


def load_model(folder: str) -> tuple[Any, Any]:
    """The model (float32, evaluation mode) and its tokenizer from a local directory."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise DemoError(f"this needs transformers ({error}): pip install transformers") from error
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    ).eval()
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def blocks_of(model: Any) -> Any:
    """The decoder's blocks, in order."""
    return model.model.layers


@contextmanager
def block_outputs(model: Any, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Collect [batch, tokens, hidden] of each layer's output during the forward passes inside."""
    outputs: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            outputs[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [blocks_of(model)[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def text_activations(
    model: Any, tokenizer: Any, texts: Sequence[str], layers: Sequence[int], batch_size: int = 16
) -> Iterator[dict[int, list[torch.Tensor]]]:
    """For each batch of `texts`, per layer a list of [tokens of the text, hidden], float32.

    Each text is the assistant's answer to `QUESTION` in the model's chat template. Only its own
    tokens are returned: not the template's, whose first token carries a massive activation, and
    not the padding.
    """
    opening = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tokenize=False, add_generation_prompt=True
    )
    skip = len(tokenizer(opening, add_special_tokens=False).input_ids)
    for start in range(0, len(texts), batch_size):
        rows = [
            tokenizer(opening + text, add_special_tokens=False).input_ids
            for text in texts[start : start + batch_size]
        ]
        width = max(map(len, rows))
        # Padding goes to the right: with causal attention no token before it can see it, and
        # positions need no correction.
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        with block_outputs(model, layers) as outputs:
            model.model(input_ids=ids, attention_mask=mask, use_cache=False)
        yield {
            layer: [outputs[layer][i, skip : len(row)].float() for i, row in enumerate(rows)]
            for layer in layers
        }
