"""Seam: vLLM's workers (`v1/worker/worker_base.py: WorkerWrapperBase`).

The wrapper forwards what it does not define to the worker; we define `load_model` (tables and
instrumentation before the profile run), `compile_or_warm_up_model` (the self-check after it) and
the methods that `collective_rpc` may call.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steering import seam_cpu_attention, seam_runner_v1
from steering.blocks import NotInstrumentable, find_blocks
from steering.calibration import NormListener
from steering.instrument import Gate, instrument, site_slots
from steering.plan.errors import VectorUnavailable
from steering.plan.limits import STEERABLE_SITES
from steering.plan.settings import Settings
from steering.requests import SteeredRequests
from steering.seam_config import limits_of, num_layers, runs_python, table_sizes
from steering.seam_frontend import object_path
from steering.selfcheck import self_check
from steering.tables import Tables
from vectors.format import read_tensors


class WorkerSteering:
    """All of Steersman in one worker process."""

    def __init__(self, worker: Any, vllm_config: Any) -> None:
        if worker.use_v2_model_runner:
            raise NotInstrumentable(
                "Steersman steers vLLM's V1 model runner and this engine chose V2. "
                "Set VLLM_USE_V2_MODEL_RUNNER=0 (`steersman serve` does)."
            )
        runner = worker.model_runner
        check_ways(vllm_config, runner)
        if runner.device.type == "cpu":
            seam_cpu_attention.install()
        plain = not scales_branches(vllm_config)
        blocks = find_blocks(runner.get_model(), num_layers(vllm_config), plain=plain)
        self.runner = runner
        self.tables = Tables(table_sizes(vllm_config, runner.max_num_tokens), runner.device)
        self.slots = site_slots(blocks)
        self.gate = Gate(self.tables.sizes.slots, always=not runs_python(vllm_config))
        library = Path(Settings.read(vllm_config.additional_config).library)

        def load(digest: str, keys: list[tuple[str, int]]) -> Mapping[tuple[str, int], Tensor]:
            try:
                tensors = read_tensors(object_path(library, digest), keys)
            except Exception as error:
                # Whatever is wrong with one file ends one request, never the engine.
                raise VectorUnavailable(f"{digest[:19]}: {error}") from error
            for key, tensor in tensors.items():
                if tensor.shape != (self.tables.sizes.hidden,):
                    raise VectorUnavailable(
                        f"{digest[:19]} {key} has shape {tuple(tensor.shape)}, "
                        f"this model steers [{self.tables.sizes.hidden}]"
                    )
            return tensors

        self.sites = tuple(s for s in STEERABLE_SITES if any(site == s for site, _ in self.slots))
        limits = dataclasses.replace(limits_of(vllm_config), sites=self.sites)
        self.steered = SteeredRequests(self.tables, limits, self.slots, load, _anyone)
        instrument(blocks, self.slots, self.tables, self.gate)
        seam_runner_v1.attach(runner, self.steered, self.gate)

    def check(self) -> None:
        """Steer a probe through every layer; raises `NotInstrumentable` where it is lost."""

        def forward(tokens: int) -> Tensor:
            hidden, _ = self.runner._dummy_run(tokens, skip_eplb=True)
            if not isinstance(hidden, Tensor):
                raise NotInstrumentable("the probe's forward pass returned no hidden states")
            return hidden[:tokens]

        self_check(self.tables, self.slots, self.gate, forward)


def check_ways(vllm_config: Any, runner: Any) -> None:
    """Raise `NotInstrumentable` for ways of running that this version cannot steer rightly."""
    parallel = vllm_config.parallel_config
    for refused, why in (
        (parallel.pipeline_parallel_size > 1, "pipeline parallel; use tensor parallel"),
        (parallel.use_ubatching, "micro-batches; drop --enable-dbo and --ubatch-size"),
        (runner.use_async_spec_decode, "asynchronous speculative decoding; drop one of the two"),
    ):
        if refused:
            raise NotInstrumentable(f"Steersman cannot steer under {why}")


def scales_branches(vllm_config: Any) -> bool:
    """Whether the model scales what its branches add to the stream (Granite, MiniCPM): then adding
    at `attn_out` or `mlp_out` would not be the addition that was asked for."""
    config = vllm_config.model_config.hf_text_config
    return any(getattr(config, name, 1.0) != 1.0 for name in ("residual_multiplier", "scale_depth"))


def _anyone(failed: bool) -> bool:
    """Whether `failed` on any tensor-parallel rank."""
    from vllm.distributed import get_tp_group

    group = get_tp_group()
    if group.world_size == 1:
        return failed
    flag = torch.tensor([int(failed)])
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group.cpu_group)
    return bool(flag.item())


def install() -> None:
    """Give `WorkerWrapperBase` our methods. Idempotent."""
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    for method in _METHODS:
        setattr(WorkerWrapperBase, method.__name__, method)


def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
    result = self.worker.load_model(*args, **kwargs)
    # Pooling models answer no request that could ask for steering.
    self.steering = None
    if self.vllm_config.model_config.runner_type == "generate":
        self.steering = WorkerSteering(self.worker, self.vllm_config)
    return result


def compile_or_warm_up_model(self: Any) -> Any:
    result = self.worker.compile_or_warm_up_model()
    if self.steering is not None:
        self.steering.check()
    return result


def steering_status(self: Any) -> dict[str, Any]:
    """What this worker can steer, and how full its bank is."""
    steering: WorkerSteering = self.steering
    bank = steering.steered.bank
    bank.check()
    return {
        "sites": list(steering.sites),
        "layers": sorted({layer for _, layer in steering.slots}),
        "hidden_size": steering.tables.sizes.hidden,
        "bank_rows": bank.capacity,
        "bank_rows_used": bank.used,
        "vectors_resident": bank.resident_vectors(),
        "requests": len(steering.steered.live),
        "free_table_rows": steering.steered.free_table_rows,
        "listens": not steering.gate.always,
        "table_bytes": sum(
            t.numel() * t.element_size()
            for t in vars(steering.tables).values()
            if isinstance(t, torch.Tensor)
        ),
    }


def steering_listen(self: Any) -> None:
    """Start measuring the residual stream of whatever runs (calibration)."""
    steering: WorkerSteering = self.steering
    steering.gate.listener = NormListener(steering.runner.positions)


def steering_heard(self: Any) -> dict[str, float]:
    """Stop measuring; the median residual norm of each "<site>.<layer>"."""
    steering: WorkerSteering = self.steering
    listener, steering.gate.listener = steering.gate.listener, None
    return listener.medians() if isinstance(listener, NormListener) else {}


_METHODS = (
    load_model,
    compile_or_warm_up_model,
    steering_status,
    steering_listen,
    steering_heard,
)
