"""Seam: V2's full CUDA graphs, captured with the operation and without (`cudagraph_utils.py`).

A graph that is captured with the operation launches its kernel in every layer, also in steps in
which nobody steers. Python runs at capture, so the operation can stay out of a second graph of the
same batch, as vLLM captures graphs with and without LoRA. Each of vLLM's descriptors of a full
graph gets a twin: both are captured, and counted when vLLM estimates their memory; a step replays
the twin where it has no active slot. Piecewise graphs have no twins: vLLM chooses those inside the
compiled model.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from steersman.steering.ops.addition import left_out
from steersman.steering.vllm.seam import Function, wrap
from steersman.steering.worker.tables import Tables

if TYPE_CHECKING:
    from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor

_tables: Final[list[Tables]] = []
"""This worker's tables: what says whether a step steers."""


def install(tables: Tables) -> None:
    """Give every full graph of the served model a twin without the operation. Call before vLLM
    makes the manager of its graphs. Idempotent; the tables of the last call count."""
    from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager, ModelCudaGraphManager

    _tables[:] = [tables]
    # A speculator's draft model has a manager of its own, and no operation.
    wrap(ModelCudaGraphManager, "_init_candidates", _with_twins)
    wrap(CudaGraphManager, "capture", _capturing_twins)
    wrap(ModelCudaGraphManager, "run_fullgraph", _replaying_twins)


@functools.cache
def _twin_type() -> type["BatchExecutionDescriptor"]:
    """vLLM's descriptor under another type: equal to none of the first."""
    from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor

    @dataclass(frozen=True)
    class WithoutSteering(BatchExecutionDescriptor):
        """A full graph in which the operation is left out."""

    return WithoutSteering


def twin(descriptor: "BatchExecutionDescriptor") -> "BatchExecutionDescriptor":
    """The descriptor of the graph without the operation, for the same batch."""
    return _twin_type()(**{x.name: getattr(descriptor, x.name) for x in fields(descriptor)})


def _with_twins(original: Function) -> Function:
    from vllm.config.compilation import CUDAGraphMode

    def init_candidates(self: Any) -> None:
        original(self)
        full = self._capture_descs.get(CUDAGraphMode.FULL, [])
        # `_candidates` has none of them: a batch is matched to the first, then it is chosen.
        full += [twin(descriptor) for descriptor in full]

    return init_candidates


def _capturing_twins(original: Function) -> Function:
    def capture(self: Any, create_forward_fn: Function, *args: Any, **kwargs: Any) -> None:
        def create(desc: Any, warmup: bool) -> Callable[[Any], None]:
            forward: Callable[[Any], None] = create_forward_fn(desc, warmup=warmup)
            if not isinstance(desc, _twin_type()):
                return forward

            def without_steering(mode: Any) -> None:
                with left_out():
                    forward(mode)

            return without_steering

        original(self, create, *args, **kwargs)

    return capture


def _replaying_twins(original: Function) -> Function:
    def run_fullgraph(self: Any, descriptor: "BatchExecutionDescriptor") -> Any:
        idle = not _tables[0].active_slots
        return original(self, twin(descriptor) if idle else descriptor)

    return run_fullgraph
