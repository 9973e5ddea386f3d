"""All of Steersman in one worker process, put together before the profile run."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steersman.steering.plan.limits import STEERABLE_SITES, largest_addition
from steersman.steering.plan.settings import Settings
from steersman.steering.vllm import seams
from steersman.steering.vllm.config import limits_of, num_layers, runs_python, table_sizes
from steersman.steering.vllm.unsupported import check_device, check_v2, check_ways
from steersman.steering.vllm.worker import dummy_run, model_runner_v1, model_runner_v2
from steersman.steering.vllm.worker.loading import VectorFiles, failed_anywhere
from steersman.steering.vllm.worker.logit_lens import Lens
from steersman.steering.vllm.worker.model import bare_forward, layer_types
from steersman.steering.worker.batch import Steps
from steersman.steering.worker.blocks import Block, find_blocks
from steersman.steering.worker.capture import CaptureTracker
from steersman.steering.worker.composition import Composer
from steersman.steering.worker.hooks import ActiveSlots, instrument, site_slots
from steersman.steering.worker.requests import SteeredRequests
from steersman.steering.worker.residual_probe import probe_blocks
from steersman.steering.worker.selfcheck import self_check
from steersman.steering.worker.tables import Tables

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class WorkerSteering:
    """The composition root of a worker. `worker`: vLLM's, with its model loaded.

    Raises `NotInstrumentable` for a model or a way of running that cannot be steered rightly, and
    RuntimeError where a seam is missing.
    """

    def __init__(self, worker: Any, vllm_config: "VllmConfig") -> None:
        runner, v2 = worker.model_runner, worker.use_v2_model_runner
        _check(runner, vllm_config, v2=v2)
        dummy_run.install(on_cpu=runner.device.type == "cpu")
        self.tables = Tables(table_sizes(vllm_config, runner.max_num_tokens), runner.device)
        blocks = self._find_blocks(runner, vllm_config)
        self.slots = site_slots(blocks)
        self.sites = tuple(s for s in STEERABLE_SITES if any(site == s for site, _ in self.slots))
        dtype = vllm_config.model_config.dtype
        assert isinstance(dtype, torch.dtype)  # vLLM has resolved "auto" by now.
        self.lens = Lens(runner, blocks, dtype)
        self.active = ActiveSlots(self.tables.sizes.slots, always=not runs_python(vllm_config))
        self.steered = self._make_steered(vllm_config)
        instrument(blocks, self.slots, self.tables, self.active)
        # V2 chooses a step's graph before we know what is in the step.
        self.listens = not (v2 and self.active.always)
        self.composer = Composer()
        captures = CaptureTracker(self.active, self.slots if self.listens else (), runner.device)
        steps = Steps(self.steered, captures, self.composer, self.active)
        self.attached = (model_runner_v2 if v2 else model_runner_v1).attach(runner, steps)

    def check(self) -> None:
        """Steer a probe through every layer; raises `NotInstrumentable` where it is lost."""
        self_check(
            self.tables, self.slots, self.active, self.attached.probe, self.attached.probe_tokens
        )

    def _find_blocks(self, runner: Any, vllm_config: "VllmConfig") -> list[Block]:
        found = find_blocks(runner.get_model(), num_layers(vllm_config), layer_types())
        forward = bare_forward(runner, vllm_config)
        return probe_blocks(found, forward, self.tables.sizes.hidden, runner.max_num_tokens)

    def _make_steered(self, vllm_config: "VllmConfig") -> SteeredRequests:
        library = Path(Settings.read(vllm_config.additional_config).library)
        files = VectorFiles(library, self.tables.sizes.hidden)
        limits = dataclasses.replace(limits_of(vllm_config), sites=self.sites)
        most = largest_addition(str(vllm_config.model_config.dtype).removeprefix("torch."))
        return SteeredRequests(self.tables, limits, self.slots, files.load, failed_anywhere, most)


def _check(runner: Any, vllm_config: "VllmConfig", *, v2: bool) -> None:
    """Refuse a worker that lacks a seam, or runs in a way that cannot be steered rightly."""
    from vllm.platforms import current_platform

    seams.check(seams.WORKER, seams.V2_WORKER if v2 else seams.V1_WORKER)
    check_device(current_platform)
    check_ways(vllm_config, runner)
    if v2:
        check_v2(runner, vllm_config)
    if runner.device.type == "cpu":
        seams.check(seams.CPU_WORKER)
