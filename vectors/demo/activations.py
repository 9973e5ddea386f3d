"""The residual stream of texts, read with plain forward hooks on a Hugging Face model.

Layer L is the output of block L (`resid_post.L`). The hooks read it there, because Hugging Face's
last `hidden_states` entry is taken after the final norm and is not a residual stream.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from steersman.vectors.errors import DemoError

# What the texts are an answer to. The model is steered while it answers, so it is read there too.
QUESTION = "Write a sentence."


class LoadedModel(NamedTuple):
    """A Hugging Face causal model (float32, evaluation mode) and its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def blocks(self) -> Any:
        """The decoder's blocks, in order."""
        return self.model.model.layers

    def chat_ids(self, question: str) -> list[int]:
        """Tokens of one user turn in the chat template, up to where the answer begins."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        return self.text_ids(text)

    def text_ids(self, text: str) -> list[int]:
        """Tokens of `text` alone."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids


def load_model(folder: Path, blocks: int | None = None) -> LoadedModel:
    """The model in `folder`, or only its first `blocks`; downloads nothing. Raises `DemoError`."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise DemoError(f"this needs transformers ({error}): pip install transformers") from error
    if not (folder / "config.json").is_file():
        raise DemoError(f"there is no model in {folder}: prepare it first")
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return LoadedModel(model.eval(), tokenizer)


@contextmanager
def block_outputs(loaded: LoadedModel, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Collect each layer's output, [batch, tokens, hidden], in the forward passes inside."""
    outputs: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            outputs[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [loaded.blocks[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def text_activations(
    loaded: LoadedModel, texts: Sequence[str], layers: Sequence[int], batch_size: int = 14
) -> Iterator[dict[int, torch.Tensor]]:
    """For each text, per layer the residual stream at its tokens: [tokens, hidden], float32.

    Each text is read as the assistant's answer to `QUESTION`. Only its own tokens are returned:
    not the template's, whose first token carries a massive activation, and not the padding. Texts
    come back sorted by length, so that little is padded.
    """
    opening = torch.tensor([loaded.chat_ids(QUESTION)])
    cache = loaded.model.model(input_ids=opening, use_cache=True).past_key_values
    tokens = sorted(map(loaded.text_ids, texts), key=len)
    for start in range(0, len(tokens), batch_size):
        rows = tokens[start : start + batch_size]
        # Padding goes to the right: with causal attention no token before it can see it, and
        # positions need no correction.
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        shared = copy.deepcopy(cache)
        shared.batch_repeat_interleave(len(rows))
        with block_outputs(loaded, layers) as outputs:
            loaded.model.model(input_ids=ids, past_key_values=shared, use_cache=True)
        for i, row in enumerate(rows):
            yield {layer: outputs[layer][i, : len(row)] for layer in layers}
