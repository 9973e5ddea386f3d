"""The logit lens on small models of torch alone: norms, biases, several ranks."""

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from steersman.steering.vllm.worker.logit_lens import Extremes, Lens, final_norm
from steersman.steering.worker.blocks import Block

HIDDEN, VOCAB, LAYERS = 8, 50, 3


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(HIDDEN) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Decoder(nn.Module):
    """A norm of the embeddings first, as in BLOOM: it is not the final one."""

    def __init__(self, norm: nn.Module | None) -> None:
        super().__init__()
        self.embedding_norm = nn.LayerNorm(HIDDEN)
        self.layers = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(LAYERS))
        if norm is not None:
            self.final = norm


class Model(nn.Module):
    """`gathers`: whether this rank is given the logits, as vLLM does under tensor parallelism."""

    def __init__(self, norm: nn.Module | None, *, bias: bool, gathers: bool = True) -> None:
        super().__init__()
        self.model = Decoder(norm)
        self.lm_head = nn.Linear(HIDDEN, VOCAB, bias=bias)
        self.gathers = gathers
        self.calls: list[int] = []

    def compute_logits(self, hidden: Tensor) -> Tensor | None:
        self.calls.append(len(hidden))
        return self.lm_head(hidden) if self.gathers else None


def make_lens(model: Model) -> Lens:
    @contextmanager
    def no_adapter(config: Any, tokens: Any) -> Any:
        assert config is None
        yield

    runner = SimpleNamespace(
        get_model=lambda: model,
        device=torch.device("cpu"),
        lora_config=None,
        maybe_select_dummy_loras=no_adapter,
    )
    return Lens(runner, blocks_of(model), torch.float32)


def blocks_of(model: Model) -> list[Block]:
    return [Block(n, module, None, None) for n, module in enumerate(model.model.layers)]


def directions(rows: int) -> Tensor:
    return 3 * torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(1))


def expected(logits: Tensor, count: int) -> Extremes:
    order = logits.argsort(descending=True).tolist()
    pairs = [(token, float(logits[token])) for token in order]
    return Extremes(pairs[:count], pairs[::-1][:count])


def assert_same(found: list[Extremes] | None, logits: Tensor, count: int) -> None:
    assert found is not None
    assert len(found) == len(logits)
    for one, row in zip(found, logits, strict=True):
        for ours, theirs in zip(one, expected(row, count), strict=True):
            assert [token for token, _ in ours] == [token for token, _ in theirs]
            torch.testing.assert_close(
                torch.tensor([logit for _, logit in ours]),
                torch.tensor([logit for _, logit in theirs]),
                rtol=1e-4,
                atol=1e-4,
            )


def test_the_weight_of_the_final_norm_is_folded_in() -> None:
    torch.manual_seed(0)
    model = Model(RMSNorm(), bias=False)
    rows = directions(20)
    unit = rows / rows.pow(2).mean(-1, keepdim=True).sqrt()
    logits = (unit * model.model.get_parameter("final.weight")) @ model.lm_head.weight.T
    assert_same(make_lens(model).read(rows, 5), logits.detach(), 5)
    # All rows, but no more of them at once than is held.
    assert len(model.calls) == 3


def test_the_biases_of_norm_and_unembedding_are_no_effect_of_the_vector() -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(HIDDEN)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias, std=5.0)
    model = Model(norm, bias=True)
    nn.init.normal_(model.lm_head.bias, std=20.0)
    rows = directions(3)
    centred = rows - rows.mean(-1, keepdim=True)
    scaled = centred / centred.pow(2).mean(-1, keepdim=True).sqrt()
    logits = (scaled * norm.weight) @ model.lm_head.weight.T
    assert_same(make_lens(model).read(rows, 4), logits.detach(), 4)


def test_a_longer_vector_says_the_same_and_the_opposite_says_the_opposite() -> None:
    lens = make_lens(Model(RMSNorm(), bias=True))
    (row,) = directions(1)
    found = lens.read(torch.stack([row, 1e4 * row, -row]), 5)
    assert found is not None
    one, longer, opposite = found
    assert [token for token, _ in one.top] == [token for token, _ in longer.top]
    assert [token for token, _ in one.top] == [token for token, _ in opposite.bottom]


def test_no_more_tokens_than_there_are() -> None:
    found = make_lens(Model(None, bias=False)).read(directions(1), 1000)
    assert found is not None
    assert len(found[0].top) == VOCAB


def test_a_rank_without_logits_has_nothing_to_say_but_takes_part() -> None:
    silent, speaking = (Model(RMSNorm(), bias=False, gathers=g) for g in (False, True))
    assert make_lens(silent).read(directions(20), 5) is None
    assert make_lens(speaking).read(directions(20), 5) is not None
    # The logits are gathered from all ranks: each has to call as often, with as many rows.
    assert silent.calls == speaking.calls


def test_the_final_norm_is_the_one_built_after_the_blocks() -> None:
    model = Model(RMSNorm(), bias=False)
    assert final_norm(model, blocks_of(model)) == ("model.final", model.model.final)
