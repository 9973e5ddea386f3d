"""A random model small enough to start in seconds, and vectors as long as its residual stream."""

from pathlib import Path

import torch

from steersman.vectors.file.format import HookPoint, SteeringVector, write_vector
from steersman.vectors.library.library import Library

LAYERS, HIDDEN, VOCAB = 3, 48, 576
SPOKEN = 258
"""Tokens of the tokenizer."""
SITES = ("resid_post", "attn_out", "mlp_out")
SPREAD = 0.2
"""Standard deviation of the weights: large, so that the log-probabilities differ by whole numbers
and an addition that is left out cannot hide under the tolerance."""


def make_model(
    folder: Path,
    *,
    layers: int = LAYERS,
    hidden: int = HIDDEN,
    heads: int = 6,
    seed: int = 0,
    vocab: int = VOCAB,
) -> Path:
    """A Llama in float32 (its six heads can be shared by two and three workers), and a tokenizer of
    bytes. With a `vocab` of `SPOKEN` every token that the model can say has a text."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=32,
        max_position_embeddings=1024,
        initializer_range=SPREAD,
        bos_token_id=256,
        eos_token_id=257,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def make_tokenizer(folder: Path) -> None:
    """One token a byte, and two special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: n for n, letter in enumerate([*letters, "<bos>", "<eos>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder)


def stream_norms(model: Path, prompt: tuple[int, ...]) -> list[float]:
    """Median norm of the residual stream behind each block."""
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    states: list[torch.Tensor] = []
    for block in loaded.model.layers:
        block.register_forward_hook(
            lambda _m, _i, out: states.append(out[0] if isinstance(out, tuple) else out)
        )
    with torch.no_grad():
        loaded(input_ids=torch.tensor([prompt]))
    return [float(s.reshape(-1, s.shape[-1])[1:].norm(dim=-1).median()) for s in states]


def make_vector(
    library: Path, norms: list[float], hidden: int, seed: int, steps: tuple[int, ...] = ()
) -> str:
    """Digest of a random vector at every site and layer; coefficient 1 is as long as the stream.
    `steps`: (number of steps,) for a vector with a tensor for each step."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[HookPoint, torch.Tensor] = {}
    for site in SITES:
        for layer, norm in enumerate(norms):
            v = torch.randn(*steps, hidden, generator=generator)
            tensors[HookPoint(site, layer)] = v * (norm / v.norm(dim=-1, keepdim=True))
    vector = SteeringVector(tensors)
    Library(library).add(write_vector(vector), f"v{seed}")
    return vector.digest
