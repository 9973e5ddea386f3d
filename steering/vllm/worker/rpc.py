"""Seam: the methods of vLLM's workers (`v1/worker/worker_base.py: WorkerWrapperBase`).

The wrapper forwards every method that it does not define to the worker. We define `load_model`
(tables and instrumentation before the profile run), `compile_or_warm_up_model` (the self-check
after it), and the methods that the API server calls by `collective_rpc`.
"""

from typing import TYPE_CHECKING, Any

import torch

from steersman.steering.vllm.unsupported import no_captures, no_dynamic
from steersman.steering.vllm.worker import load_ahead
from steersman.steering.vllm.worker.stages import is_last_stage
from steersman.steering.vllm.worker.worker import WorkerSteering
from steersman.steering.worker.listeners.capture import NormListener

if TYPE_CHECKING:
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    class SteeredWrapper(WorkerWrapperBase):
        """vLLM's wrapper with what `load_model` adds to it."""

        steering: WorkerSteering


def install() -> None:
    """Give `WorkerWrapperBase` our methods. Idempotent."""
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    for method in _METHODS:
        setattr(WorkerWrapperBase, method.__name__, method)
    load_ahead.install()


def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Load the model, then instrument it."""
    result = self.worker.load_model(*args, **kwargs)
    # A pooling model answers no request that can have a plan.
    self.steering = None
    if self.vllm_config.model_config.runner_type == "generate":
        self.steering = WorkerSteering(self.worker, self.vllm_config)
    return result


def compile_or_warm_up_model(self: Any) -> Any:
    """Warm up, then run the self-check, which steers a probe through every layer."""
    result = self.worker.compile_or_warm_up_model()
    if self.steering is not None:
        self.steering.check()
    return result


def steering_status(self: "SteeredWrapper") -> dict[str, Any]:
    """The sites and layers that this worker can steer, and how full its bank is."""
    steering = self.steering
    bank = steering.steered.bank
    bank.check()
    return {
        "sites": list(steering.sites),
        "aliases": list(steering.aliases),
        "operations": list(steering.operations),
        "own_sites": list(steering.own_sites),
        "readout_sites": list(steering.readout_sites),
        "no_gates": steering.steered.limits.no_gates,
        "listened": len(steering.listened),
        "layers": sorted({layer for _, layer in steering.slots}),
        "hidden_size": steering.tables.sizes.hidden,
        "bank_rows": bank.capacity,
        "bank_rows_used": bank.used,
        "vectors_resident": bank.resident_vectors(),
        "loads": len(steering.loads),
        "requests": len(steering.steered.live),
        "companions": len(steering.composer.companions),
        "free_table_entries": steering.steered.free_table_entries,
        "most_added": steering.steered.most_added,
        "repeats": steering.repeats,
        "composes": no_dynamic(self.vllm_config) is None,
        "captures": no_captures(self.vllm_config) is None,
        "table_bytes": sum(
            t.numel() * t.element_size()
            for t in vars(steering.tables).values()
            if isinstance(t, torch.Tensor)
        ),
    }


def steering_start_norms(self: "SteeredWrapper") -> None:
    """Start to measure the norm of the residual stream in every forward pass (calibration)."""
    steering = self.steering
    steering.active.listeners.append(NormListener(steering.attached.positions))


def steering_take_norms(self: "SteeredWrapper") -> dict[str, float]:
    """Stop measuring. Returns the median norm of the residual stream for each "<site>.<layer>"."""
    steering = self.steering
    found = [x for x in steering.active.listeners if isinstance(x, NormListener)]
    for listener in found:
        steering.active.listeners.remove(listener)
    return found[0].medians() if found else {}


def steering_lens(self: "SteeredWrapper", rows: list[bytes], count: int) -> dict[str, Any] | None:
    """The `count` tokens that each of `rows`, float32 [hidden], raises and lowers most. None on a
    rank that has no logits.

    Rows are sent by value. Were each rank to read a file, one could fail and leave the others
    waiting.
    """
    if not is_last_stage():
        return None
    steering = self.steering
    directions = torch.stack([torch.frombuffer(bytearray(r), dtype=torch.float32) for r in rows])
    found = steering.lens.read(directions, count)
    if found is None:
        return None
    return {"norm": steering.lens.norm_name, "tokens": [extremes._asdict() for extremes in found]}


_METHODS = (
    load_model,
    compile_or_warm_up_model,
    steering_status,
    steering_start_norms,
    steering_take_norms,
    steering_lens,
)
