"""One operation a layer, on the residual: counted in a pass and in a graph, and beside what."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from steersman.steering.worker.blocks import Block as Found
from steersman.steering.worker.hooks import ActiveSlots, instrument, site_slots
from steersman.steering.worker.residual_probe import probe_blocks
from steersman.steering.worker.tables import Tables, TableSizes
from steersman.vectors.tensors import HookPoint
from tests.support.steering.tiny import HIDDEN, Attention, Block, Decoder, Mlp, RMSNorm, blocks_of

LAYERS = 3
ADD = torch.ops.steersman.add.default

_toy = torch.library.Library("steersman_tests", "FRAGMENT")
_toy.define("all_reduce(Tensor x) -> Tensor")
_toy.define("fused_add_rms_norm(Tensor x, Tensor residual) -> (Tensor, Tensor)")
_toy.impl("all_reduce", lambda x: x.clone(), "CompositeExplicitAutograd")


def _add_norm(x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    stream = x + residual
    return stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + 1e-6), stream


_toy.impl("fused_add_rms_norm", _add_norm, "CompositeExplicitAutograd")


class Reduced(nn.Module):
    """A branch whose output the ranks add up, as with tensor parallel."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        reduced: Tensor = torch.ops.steersman_tests.all_reduce(self.branch(x))
        return reduced


class FusedNorm(RMSNorm):
    def forward(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if residual is None:
            return super().forward(x)
        normed: tuple[Tensor, Tensor] = torch.ops.steersman_tests.fused_add_rms_norm(x, residual)
        return normed


def parallel_decoder() -> Decoder:
    """As vLLM's blocks under tensor parallel: all-reduces, and the norms that vLLM joins them
    with."""
    model = Decoder([Block(n) for n in range(LAYERS)])
    for n, block in enumerate(model.layers):
        block.self_attn, block.mlp = Reduced(Attention(2 * n)), Reduced(Mlp(2 * n + 1))
        block.input_layernorm, block.post_attention_layernorm = FusedNorm(), FusedNorm()
    model.norm = FusedNorm()
    return model


class Steered:
    """A tiny model with everything in place, as a worker has it in graphs."""

    def __init__(self, model: Decoder, *, sites: tuple[str, ...] = (), always: bool = True) -> None:
        self.model = model
        self.blocks: list[Found] = probe_blocks(
            blocks_of(model, LAYERS), lambda n: model(_stream(n)), HIDDEN, 16
        )
        self.slots = site_slots(self.blocks, sites)
        count = len(set(self.slots.values()))
        sizes = TableSizes(count, 4, 2, 3, HIDDEN, 16)
        self.tables = Tables(sizes, torch.device("cpu"))
        self.active = ActiveSlots(count, always=always)
        instrument(self.blocks, self.slots, self.tables, self.active)

    def mark(self, point: HookPoint, token: int) -> None:
        self.tables.fill_bank(1, torch.ones(HIDDEN))
        self.tables.begin_step()
        self.tables.write_entry(0, {self.slots[point]: [(1, 2.0)]})
        self.tables.mark(token, token + 1, 0)
        self.tables.commit(8)
        self.active.set(self.tables.active_slots)


class Counting(TorchDispatchMode):
    """Counts the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func] += 1
        return func(*args, **(kwargs or {}))


def _stream(tokens: int) -> Tensor:
    return torch.randn(tokens, HIDDEN, generator=torch.Generator().manual_seed(0))


def graphs_of(model: nn.Module) -> list[fx.Graph]:
    """What torch.compile makes of it."""
    graphs = []

    def keep(module: fx.GraphModule, _: Any) -> Callable[..., Any]:
        graphs.append(module.graph)
        return module.forward

    torch.compile(model, backend=keep, fullgraph=True)(_stream(8))
    torch._dynamo.reset()
    return graphs


@pytest.mark.parametrize(("sites", "each"), [((), 1), (("mlp_out",), 1), (("attn_out",), 2)])
def test_operations_a_layer(sites: tuple[str, ...], each: int) -> None:
    engine = Steered(Decoder([Block(n) for n in range(LAYERS)]), sites=sites)
    with Counting() as count:
        engine.model(_stream(8))
    assert count.seen[ADD] == each * LAYERS
    (graph,) = graphs_of(engine.model)
    assert sum(node.target in (ADD, ADD.overloadpacket) for node in graph.nodes) == each * LAYERS


def test_nothing_stands_between_an_all_reduce_and_its_norm() -> None:
    """vLLM makes one kernel of both where it finds them side by side."""
    engine = Steered(parallel_decoder())
    (graph,) = graphs_of(engine.model)
    named = torch.ops.steersman_tests
    reduces = [n for n in graph.nodes if n.target in (named.all_reduce, named.all_reduce.default)]
    norms = (named.fused_add_rms_norm, named.fused_add_rms_norm.default)
    assert len(reduces) == 2 * LAYERS
    for node in reduces:
        (user,) = node.users
        assert user.target in norms
        assert user.args[0] is node
    adds = [n for n in graph.nodes if n.target in (ADD, ADD.overloadpacket)]
    assert len(adds) == LAYERS
    assert not any(node.args[0] in reduces for node in adds)


def test_an_addition_between_them_would_be_seen() -> None:
    """The same model with `attn_out` on, which is what stood there for every site before."""
    engine = Steered(parallel_decoder(), sites=("attn_out",))
    (graph,) = graphs_of(engine.model)
    named = torch.ops.steersman_tests
    reduces = [n for n in graph.nodes if n.target in (named.all_reduce, named.all_reduce.default)]
    assert sum(len(node.users) > 1 for node in reduces) == LAYERS


@pytest.mark.parametrize("always", [True, False], ids=["graphs", "python"])
@pytest.mark.parametrize("site", ["resid_post", "mlp_out", "attn_out"])
def test_the_sum_is_that_of_an_addition_at_the_site(site: str, always: bool) -> None:
    plain = Decoder([Block(n) for n in range(LAYERS)])
    path = {"resid_post": "layers.1", "mlp_out": "layers.1.mlp", "attn_out": "layers.1.self_attn"}

    def add(_: nn.Module, __: Any, output: Any) -> None:
        (output[0] if isinstance(output, tuple) else output)[5] += 2.0

    hook = plain.get_submodule(path[site]).register_forward_hook(add)
    wanted = plain(_stream(8))
    hook.remove()
    engine = Steered(Decoder([Block(n) for n in range(LAYERS)]), sites=(site,), always=always)
    engine.mark(HookPoint(site, 1), 5)
    assert torch.allclose(engine.model(_stream(8)), wanted, atol=1e-6)


def looks(engine: Steered) -> int:
    """How often operations of a pass look which tokens are marked."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        engine.model(_stream(8))
    return sum(event.count for event in seen.key_averages() if event.key == "aten::nonzero")


def test_a_step_that_marks_nothing_returns_at_once() -> None:
    engine = Steered(Decoder([Block(n) for n in range(LAYERS)]))
    engine.mark(HookPoint("resid_post", 1), 5)
    assert looks(engine) == LAYERS
    engine.tables.begin_step()
    engine.tables.commit(8)
    assert looks(engine) == 0
