"""A tiny model with the shape of a vLLM decoder, for tests of structure without an engine."""

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.layers.linear import LinearBase

from steersman.steering.vllm.worker.model import layer_types
from steersman.steering.worker import blocks

HIDDEN = 8


class Linear(LinearBase):
    """A matrix that vLLM's type checks see as one of theirs."""

    def __init__(self, seed: int) -> None:
        nn.Module.__init__(self)
        generator = torch.Generator().manual_seed(seed)
        self.matrix = nn.Parameter(torch.randn(HIDDEN, HIDDEN, generator=generator) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


class Mixer(nn.Module, AttentionLayerBase):
    """An attention layer: one token long, so it passes its input on."""

    def get_attn_backend(self) -> None:  # type: ignore[override]
        return None

    def get_kv_cache_spec(self, vllm_config: object) -> None:
        return None

    def forward(self, x: Tensor) -> Tensor:
        return x


class RMSNorm(nn.Module):
    def forward(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        stream = x if residual is None else x + residual
        return stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + 1e-6), stream


class Attention(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.qkv, self.mixer = Linear(seed), Mixer()

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mixer(self.qkv(x))
        return mixed


class Mlp(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.up = Linear(seed)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.up(x))


class Block(nn.Module):
    """A pre-norm block that returns (hidden states, residual), as most of vLLM's do."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(2 * layer), Mlp(2 * layer + 1)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(), RMSNorm()

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        normed, residual = self.input_layernorm(x, residual)
        normed, residual = self.post_attention_layernorm(self.self_attn(normed), residual)
        return self.mlp(normed), residual


class Decoder(nn.Module):
    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(modules)
        self.norm = RMSNorm()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Embeddings [tokens, hidden] to final hidden states [tokens, hidden]."""
        residual = None
        for block in self.layers:
            x, residual = block(x, residual)
        normed: Tensor = self.norm(x, residual)[0]
        return normed


def decoder(layers: int = 4) -> Decoder:
    return Decoder([Block(layer) for layer in range(layers)])


def blocks_of(model: nn.Module, layers: int) -> list[blocks.Block]:
    """The blocks that a worker finds in `model`."""
    return blocks.find_blocks(model, layers, layer_types())
