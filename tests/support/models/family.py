"""A family of models in the matrix: how a tiny one is made, and what is expected of it."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

VOCABULARY = 320
LAYERS = 3
ALL_SITES = ("resid_post", "attn_out", "mlp_out")
STREAM_ONLY = ("resid_post",)

PROMPT = (5, 17, 101, 44, 250, 3, 3, 98, 61, 7, 202, 19)
FIRST_STEERED = 3
NEW_TOKENS = 3

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""Heads of 32: the smallest that vLLM's CPU attention has."""

UNIMPORTED = "failed to be inspected"
"""What vLLM says of a model whose module it could not import."""


@dataclass(frozen=True)
class Family:
    """One family, as a tiny random model of it."""

    name: str
    config: str
    """Class of its configuration in `transformers`."""
    options: dict[str, Any] = field(default_factory=dict)
    """What its configuration has beyond `SIZES`; None takes a size out."""
    sites: tuple[str, ...] = ALL_SITES
    """The sites that can be steered, but for `resid_mid`."""
    blocks: str = "model.layers"
    """Where Hugging Face keeps its decoder layers."""
    attn: tuple[str, ...] = ("self_attn",)
    mlp: tuple[str, ...] = ("mlp",)
    """What their parts are called, block by block whichever is there."""
    mid: str = ""
    """Hugging Face's module of a block whose input is the stream between attention and MLP; empty:
    `resid_mid` is not compared."""
    auto: str = "AutoModelForCausalLM"
    engine: dict[str, Any] = field(default_factory=dict)
    activation: tuple[str, str] = ("", "")
    """Where in a block Hugging Face's activation is, and which `ACT2FN` vLLM has in its place."""
    refused: str = ""
    """Part of the start-up error, where it cannot be steered."""
    impossible: str = ""
    """Part of the error of vLLM without Steersman, where that cannot run it on a CPU."""
    needs: str = ""
    """A package that vLLM wants for it; where there is none, vLLM without Steersman must fail."""
    tokenizer: str = ""
    """Name in `tokenizers`, where vLLM does not start without one."""
    unproven: str = ""
    """Why it is expected to fail its test, where that is not known to be Steersman's or vLLM's."""
    note: str = ""
    quick: bool = False
    """Whether `make test` runs it too."""

    @property
    def settings(self) -> dict[str, Any]:
        """All keywords of the configuration."""
        merged = (SIZES if "text_config" not in self.options else {}) | self.options
        return {name: value for name, value in merged.items() if value is not None}

    @property
    def compared(self) -> tuple[str, ...]:
        """The sites at which it is compared with Hugging Face's."""
        return (*self.sites, "resid_mid") if self.mid else self.sites

    @property
    def vllm_must_fail(self) -> str:
        """What the error of vLLM without Steersman must say; empty where that can run it."""
        return self.impossible or (UNIMPORTED if self.needs and not find_spec(self.needs) else "")
