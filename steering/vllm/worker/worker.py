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

from steersman.steering.plan.errors import VectorUnavailable
from steersman.steering.plan.limits import STEERABLE_SITES, largest_addition
from steersman.steering.plan.settings import Settings
from steersman.steering.vllm import seams
from steersman.steering.vllm.config import (
    limits_of,
    no_dynamic,
    num_layers,
    runs_python,
    table_sizes,
)
from steersman.steering.vllm.frontend import object_path
from steersman.steering.vllm.unsupported import check_device, check_ways
from steersman.steering.vllm.worker import cpu_attention as seam_cpu_attention
from steersman.steering.vllm.worker import mamba as seam_mamba
from steersman.steering.vllm.worker import model_runner_v1 as seam_runner_v1
from steersman.steering.vllm.worker import model_runner_v2 as seam_runner_v2
from steersman.steering.vllm.worker.logit_lens import Lens
from steersman.steering.vllm.worker.model import bare_forward, layer_types
from steersman.steering.worker.batch import Steps
from steersman.steering.worker.blocks import find_blocks
from steersman.steering.worker.capture import CaptureTracker, NormListener
from steersman.steering.worker.composition import Composer
from steersman.steering.worker.hooks import ActiveSlots, instrument, site_slots
from steersman.steering.worker.requests import SteeredRequests
from steersman.steering.worker.residual_probe import probe_blocks
from steersman.steering.worker.selfcheck import self_check
from steersman.steering.worker.tables import Tables
from steersman.vectors.file.format import read_vector
from steersman.vectors.tensors import HookPoint


class WorkerSteering:
    """All of Steersman in one worker process."""

    def __init__(self, worker: Any, vllm_config: Any) -> None:
        runner = worker.model_runner
        v2 = worker.use_v2_model_runner
        seams.check(seams.WORKER, seams.V2_WORKER if v2 else seams.V1_WORKER)
        from vllm.platforms import current_platform

        check_device(current_platform)
        check_ways(vllm_config, runner)
        if v2:
            seam_runner_v2.check(runner, vllm_config)
        if runner.device.type == "cpu":
            seams.check(seams.CPU_WORKER)
            seam_cpu_attention.install()
        seam_mamba.install()
        forward = bare_forward(runner, vllm_config)
        self.tables = Tables(table_sizes(vllm_config, runner.max_num_tokens), runner.device)
        blocks = probe_blocks(
            find_blocks(runner.get_model(), num_layers(vllm_config), layer_types()),
            forward,
            self.tables.sizes.hidden,
            runner.max_num_tokens,
        )
        self.slots = site_slots(blocks)
        self.lens = Lens(runner, blocks, vllm_config.model_config.dtype)
        self.active = ActiveSlots(self.tables.sizes.slots, always=not runs_python(vllm_config))
        library = Path(Settings.read(vllm_config.additional_config).library)

        def load(digest: str, keys: list[HookPoint]) -> Mapping[HookPoint, Tensor]:
            try:
                tensors = _read_whole(object_path(library, digest), digest, keys)
            except Exception as error:
                # Whatever is wrong with one file ends one request, never the engine.
                raise VectorUnavailable(f"{digest[:19]}: {error}") from error
            for key, tensor in tensors.items():
                if tensor.shape[-1] != self.tables.sizes.hidden:
                    raise VectorUnavailable(
                        f"{digest[:19]} {key} has shape {tuple(tensor.shape)}, "
                        f"this model steers [{self.tables.sizes.hidden}]"
                    )
            return tensors

        self.sites = tuple(s for s in STEERABLE_SITES if any(site == s for site, _ in self.slots))
        limits = dataclasses.replace(limits_of(vllm_config), sites=self.sites)
        most = largest_addition(str(vllm_config.model_config.dtype).removeprefix("torch."))
        self.steered = SteeredRequests(self.tables, limits, self.slots, load, _anyone, most)
        instrument(blocks, self.slots, self.tables, self.active)
        seam = seam_runner_v2 if v2 else seam_runner_v1
        # V2 chooses a step's graph before it tells us what is in the step.
        self.listens = not (v2 and self.active.always)
        self.composer = Composer()
        captures = CaptureTracker(self.active, self.slots if self.listens else (), runner.device)
        self.attached = seam.attach(
            runner, Steps(self.steered, captures, self.composer, self.active)
        )

    def check(self) -> None:
        """Steer a probe through every layer; raises `NotInstrumentable` where it is lost."""
        self_check(
            self.tables, self.slots, self.active, self.attached.probe, self.attached.probe_tokens
        )


def _read_whole(path: Path, digest: str, keys: list[HookPoint]) -> dict[HookPoint, Tensor]:
    """The tensors `keys` out of the file of `digest`. All of the file is read: a bit that has
    turned over on the disk makes another vector, which nobody asked for."""
    vector = read_vector(path)
    if vector.digest != digest:
        raise VectorUnavailable("its file is damaged; delete the vector and upload it again")
    return {key: vector.tensors[key] for key in keys}


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
        "companions": len(steering.composer.companions),
        "free_table_entries": steering.steered.free_table_entries,
        "most_added": steering.steered.most_added,
        "listens": steering.listens,
        "composes": no_dynamic(self.vllm_config) is None,
        "table_bytes": sum(
            t.numel() * t.element_size()
            for t in vars(steering.tables).values()
            if isinstance(t, torch.Tensor)
        ),
    }


def steering_listen(self: Any) -> None:
    """Start measuring the residual stream of whatever runs (calibration)."""
    steering: WorkerSteering = self.steering
    steering.active.listeners.append(NormListener(steering.attached.positions))


def steering_heard(self: Any) -> dict[str, float]:
    """Stop measuring; the median residual norm of each "<site>.<layer>"."""
    steering: WorkerSteering = self.steering
    heard = [x for x in steering.active.listeners if isinstance(x, NormListener)]
    for listener in heard:
        steering.active.listeners.remove(listener)
    return heard[0].medians() if heard else {}


def steering_lens(self: Any, rows: list[bytes], count: int) -> dict[str, Any] | None:
    """The `count` tokens that each of `rows` raises and lowers most; a row is float32 [hidden].

    By value, not by file: no rank can fail to read one and leave the others waiting for it. None on
    a rank that has no logits.
    """
    steering: WorkerSteering = self.steering
    directions = torch.stack([torch.frombuffer(bytearray(r), dtype=torch.float32) for r in rows])
    found = steering.lens.read(directions, count)
    if found is None:
        return None
    return {"norm": steering.lens.norm_name, "tokens": [extremes._asdict() for extremes in found]}


_METHODS = (
    load_model,
    compile_or_warm_up_model,
    steering_status,
    steering_listen,
    steering_heard,
    steering_lens,
)
