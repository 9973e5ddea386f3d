"""Two sets of full graphs: vLLM's own manager of them, with CUDA's capture and replay stood in for.

A graph here is the list of kernels that were launched while it was captured. That the two sets cost
what they should on a GPU is not shown.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.config.compilation import CUDAGraphMode
from vllm.v1.worker.gpu import cudagraph_utils
from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager, ModelCudaGraphManager

from steersman.steering.ops import addition, kernel
from steersman.steering.vllm.worker import graph_sets
from steersman.steering.worker.tables import Tables, TableSizes

LAYERS = 3
SIZES = TableSizes(slots=LAYERS, table_entries=4, terms=2, bank_rows=4, hidden=8, tokens=16)


class Device:
    """What is captured and what is launched."""

    def __init__(self) -> None:
        self.launched: list[str] = []
        self.capturing = False

    @contextmanager
    def capture(self, graph: "Graph", *_: Any, **__: Any) -> Iterator[None]:
        before, self.launched, self.capturing = self.launched, [], True
        yield
        graph.kernels, self.launched, self.capturing = self.launched, before, False


class Graph:
    def __init__(self, device: Device) -> None:
        self.device = device
        self.kernels: list[str] = []

    def replay(self) -> None:
        self.device.launched += self.kernels


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    rank = SimpleNamespace(is_first_rank=True, is_last_rank=True)
    monkeypatch.setattr(cudagraph_utils, "get_pp_group", lambda: rank)
    monkeypatch.setattr(cudagraph_utils, "is_global_first_rank", lambda: False)
    monkeypatch.setattr(cudagraph_utils, "graph_capture", lambda **_: nullcontext())
    monkeypatch.setattr(cudagraph_utils, "capture_pool", lambda *_: nullcontext())
    monkeypatch.setattr(cudagraph_utils, "current_stream", lambda: None)
    platform = SimpleNamespace(get_global_graph_pool=lambda: None)
    monkeypatch.setattr(cudagraph_utils, "current_platform", platform)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(device))
    monkeypatch.setattr(torch.cuda, "graph", device.capture)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: device.capturing)
    monkeypatch.setattr(kernel, "add_rows", lambda *_: device.launched.append("add"))
    return device


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Tables:
    for owner, names in (
        (ModelCudaGraphManager, ("_init_candidates", "run_fullgraph")),
        (CudaGraphManager, ("capture",)),
    ):
        for name in names:
            # Installed is installed for good: put back what was there.
            monkeypatch.setattr(owner, name, getattr(owner, name))
    tables = Tables(SIZES, torch.device("cpu"))
    tables.write_entry(0, {1: [(1, 1.0)]})
    return tables


def config(mode: CUDAGraphMode) -> Any:
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=8),
        compilation_config=SimpleNamespace(
            cudagraph_mode=mode, cudagraph_capture_sizes=[1, 2, 4, 8], max_cudagraph_capture_size=8
        ),
        parallel_config=SimpleNamespace(tensor_parallel_size=1, data_parallel_size=1),
        speculative_config=None,
        cache_config=SimpleNamespace(use_kda_recoverssm=False),
    )


def manager(
    kind: type[CudaGraphManager], mode: CUDAGraphMode = CUDAGraphMode.FULL_DECODE_ONLY
) -> Any:
    return kind(config(mode), torch.device("cpu"), mode, decode_query_len=1)


def capture(made: Any, device: Device, tables: Tables) -> None:
    """vLLM's capture, of a model of a matrix and the operation in each layer."""

    def create(desc: Any, warmup: bool) -> Callable[[Any], None]:
        def forward(mode: Any) -> None:
            hidden = torch.zeros(desc.num_tokens, SIZES.hidden)
            for slot in range(LAYERS):
                device.launched.append("matrix")
                index, coefficient = tables.index[slot], tables.coefficient[slot]
                addition.add_on_cuda(
                    hidden, tables.bank, index, coefficient, tables.token_entry, tables.token_gain
                )

        return forward

    tables.begin_step()
    tables.commit(0)
    CudaGraphManager.capture(made, create)
    device.launched.clear()


def replayed(made: Any, device: Device, tables: Tables, *, steers: bool) -> list[str]:
    tables.begin_step()
    if steers:
        tables.mark(0, 1, 0)
    tables.commit(2)
    made.hidden_states = torch.zeros(8, SIZES.hidden)
    device.launched.clear()
    chosen = made.dispatch(2, 2, 1, 0, 1)
    assert chosen.cg_mode == CUDAGraphMode.FULL
    made.run_fullgraph(chosen)
    return device.launched


WITH = ["matrix", "add"] * LAYERS
WITHOUT = ["matrix"] * LAYERS


@pytest.mark.parametrize("mode", [CUDAGraphMode.FULL_DECODE_ONLY, CUDAGraphMode.FULL])
def test_a_step_in_which_nobody_steers_replays_no_operation(
    device: Device, tables: Tables, mode: CUDAGraphMode
) -> None:
    graph_sets.install(tables)
    made = manager(ModelCudaGraphManager, mode)
    capture(made, device, tables)
    for steers in (False, True, True, False):
        found = replayed(made, device, tables, steers=steers)
        assert found == (WITH if steers else WITHOUT)


def test_without_the_option_every_step_replays_the_operation(
    device: Device, tables: Tables
) -> None:
    made = manager(ModelCudaGraphManager)
    capture(made, device, tables)
    assert replayed(made, device, tables, steers=False) == WITH


def test_twins_are_counted_where_vllm_estimates_their_memory(
    device: Device, tables: Tables
) -> None:
    before = manager(ModelCudaGraphManager)._capture_descs[CUDAGraphMode.FULL]
    graph_sets.install(tables)
    made = manager(ModelCudaGraphManager, CUDAGraphMode.FULL_AND_PIECEWISE)
    after = made._capture_descs[CUDAGraphMode.FULL]
    assert (len(after), len(set(after))) == (2 * len(before), 2 * len(before))
    assert after[: len(before)] == before
    assert {type(x) for x in made._capture_descs[CUDAGraphMode.PIECEWISE]} == {type(before[0])}


def test_a_draft_models_graphs_have_no_twins(device: Device, tables: Tables) -> None:
    before = manager(CudaGraphManager)._capture_descs
    graph_sets.install(tables)
    assert manager(CudaGraphManager)._capture_descs == before


def test_outside_of_a_twins_capture_the_operation_is_there_again(
    device: Device, tables: Tables
) -> None:
    with pytest.raises(RuntimeError, match="capture failed"), addition.left_out():
        raise RuntimeError("capture failed")
    made = manager(ModelCudaGraphManager)
    capture(made, device, tables)
    assert replayed(made, device, tables, steers=True) == WITH
