"""Vectors of the demo model as Scalena, Sarti and Nissim (2024) make theirs: one for each step of
generation, at the output of every layer's attention, from few-shot prompts of two sides.

Their steering is added to the input of the attention's output projection;
`vectors.methods.per_step` says why `attn_out` is the same. Where a norm follows the projection
(Gemma-3), nothing that is added behind the norm is the same as what is added before it. There the
vectors are the differences behind the norm, of what joins the stream, and are added where it has
joined: `resid_mid`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from steersman.vectors.demo.activations import QUESTION, LoadedModel, load_model
from steersman.vectors.demo.contrast import contrasts
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.library.library import Library
from steersman.vectors.methods.per_step import MAX_STEPS, StepMeans, step_difference
from steersman.vectors.tensors import HookPoint
from tools.demo.measures import PROMPTS as QUESTIONS

SHOTS = 4
TEXTS = 30
"""Few-shot prompts of each side."""


def fill(model: Path, library: Library, names: Sequence[str]) -> Mapping[str, SteeringVector]:
    """The vectors of these demo properties, put into `library` under their names."""
    loaded = load_model(model)
    found = {}
    for name in names:
        both = contrasts()[name]
        positive, negative = (
            _means(loaded, sentences, name) for sentences in (both.positive, both.negative)
        )
        vectors = step_difference(positive, negative).vectors
        found[name] = SteeringVector(
            {
                HookPoint(_site(loaded), layer): vectors[:, layer].contiguous()
                for layer in range(vectors.shape[1])
            }
        )
        library.add(write_vector(found[name]), name)
    return found


def _site(loaded: LoadedModel) -> str:
    return "resid_mid" if _norm_behind(loaded.blocks[0]) else "attn_out"


def _norm_behind(block: Any) -> Any:
    """The norm between a block's attention and the stream; None if there is none."""
    normed = hasattr(block, "pre_feedforward_layernorm")
    return block.post_attention_layernorm if normed else None


def _means(loaded: LoadedModel, sentences: Sequence[str], name: str) -> StepMeans:
    """What attention gives the stream at the last token of each step of the answers to one side's
    prompts: each a few sentences of that side, and a neutral question."""
    draw = Random(0)  # The same for both sides, whose sentences are pairs.
    texts = []
    for n in range(TEXTS):
        turns = []
        for shot in draw.sample(range(len(sentences)), SHOTS):
            turns += [
                {"role": "user", "content": QUESTION},
                {"role": "assistant", "content": sentences[shot]},
            ]
        turns.append({"role": "user", "content": QUESTIONS[n % len(QUESTIONS)]})
        texts.append(
            loaded.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        )
    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    outputs: list[list[torch.Tensor]] = [[] for _ in loaded.blocks]

    def hear(layer: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            outputs[layer].append(value[:, -1].clone())

        return hook

    parts = [_norm_behind(block) or block.self_attn for block in loaded.blocks]
    handles = [part.register_forward_hook(hear(n)) for n, part in enumerate(parts)]
    try:
        with torch.no_grad():
            said = loaded.model.generate(
                **batch, max_new_tokens=MAX_STEPS, do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
    finally:
        for handle in handles:
            handle.remove()
    # By text, step, layer.
    samples = torch.stack([torch.stack(one, dim=1) for one in outputs], dim=2)
    answers = said[:, batch["input_ids"].shape[1] :].tolist()
    means = StepMeans(name)
    ends = {tokenizer.eos_token_id, loaded.model.generation_config.eos_token_id}
    for sample, answer in zip(samples, answers, strict=True):
        alive = next((n + 1 for n, token in enumerate(answer) if token in ends), len(answer))
        means.add(sample[:alive])
    return means
