"""All of Steersman in one worker process, put together before the profile run."""

import dataclasses
import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steersman.steering.plan.limits import largest_addition
from steersman.steering.plan.settings import Settings
from steersman.steering.plan.wire.loads import LoadReport
from steersman.steering.vllm import compile_cache, seams
from steersman.steering.vllm.config import (
    guessed_positions,
    hidden_size,
    limits_of,
    num_layers,
    runs_python,
    served_operations,
    table_sizes,
)
from steersman.steering.vllm.runner_seams import V1_WORKER, V2_WORKER
from steersman.steering.vllm.unsupported import check_device, check_v1, check_v2, check_ways
from steersman.steering.vllm.worker import (
    dummy_run,
    graph_sets,
    model_runner_v1,
    model_runner_v2,
)
from steersman.steering.vllm.worker.loading import VectorFiles, lowest, on_any_rank, sites_asked
from steersman.steering.vllm.worker.logit_lens import Lens
from steersman.steering.vllm.worker.model import bare_forward, layer_types
from steersman.steering.vllm.worker.stages import agreed, all_stages
from steersman.steering.worker.batch import Steps
from steersman.steering.worker.blocks import Block, find_blocks
from steersman.steering.worker.composition import Composer
from steersman.steering.worker.hooks import (
    OUTPUT_SITES,
    ActiveSlots,
    alias_sites,
    all_sites,
    instrument,
    own_slots,
    site_slots,
)
from steersman.steering.worker.listeners.capture import CaptureTracker
from steersman.steering.worker.loads.loads import Loads
from steersman.steering.worker.loads.reads import Reads
from steersman.steering.worker.loads.vector_bank import VectorBank
from steersman.steering.worker.requests import SteeredRequests
from steersman.steering.worker.residual_probe import probe_blocks
from steersman.steering.worker.selfcheck import self_check
from steersman.steering.worker.tables import Tables
from steersman.vectors.tensors import HookPoint

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = logging.getLogger("vllm.steersman")


class WorkerSteering:
    """The composition root of a worker. `worker`: vLLM's worker, with its model loaded.

    Raises `NotInstrumentable` for a model or a way of running that cannot be steered rightly, and
    RuntimeError for a missing seam.
    """

    def __init__(self, worker: Any, vllm_config: "VllmConfig") -> None:
        runner, v2 = worker.model_runner, worker.use_v2_model_runner
        _check(runner, vllm_config, v2=v2)
        dummy_run.install(on_cpu=runner.device.type == "cpu")
        here = agreed(lambda: _find_blocks(runner, vllm_config))
        self.layers = frozenset(block.layer for block in here)
        """Those of this stage of a pipeline."""
        blocks = all_stages(here)
        self.listened = tuple(
            HookPoint(site, block.layer)
            for site in all_sites(blocks)
            if site in OUTPUT_SITES
            for block in blocks
        )
        """Hook points at which the stream can be read."""
        self.slots = site_slots(blocks, _sites(vllm_config, blocks))
        self.sites = tuple(dict.fromkeys(site for site, _ in self.slots))
        self.aliases = alias_sites(blocks)
        self.operations = served_operations(vllm_config)
        own = None
        if len(self.operations) > 1:
            own = own_slots(self.slots, self.aliases, _own_sites(vllm_config, self.aliases))
        self.own_slots = own
        """`slots` where terms may read the stream; None where they only add."""
        # The compiled graph depends on these.
        compile_cache.name_graph(f"{self.slots} {own} {[block.split for block in blocks]}")
        slots = len({*self.slots.values(), *(own or {}).values()})
        sizes = table_sizes(vllm_config, slots, runner.max_num_tokens)
        self.tables = Tables(sizes, runner.device)
        dtype = vllm_config.model_config.dtype
        assert isinstance(dtype, torch.dtype)  # vLLM has resolved "auto" by now.
        self.lens = Lens(runner, blocks, dtype)
        self.active = ActiveSlots(self.tables.sizes.slots, always=not runs_python(vllm_config))
        bank = VectorBank(self.tables)
        self.steered = self._make_steered(vllm_config, bank)
        library = Path(Settings.read(vllm_config.additional_config).library)
        self.loads = Loads(Reads(VectorFiles(library).read), bank, lowest)
        self.holder = (model_runner_v2 if v2 else model_runner_v1).HOLDER
        """Attribute of an asynchronous output of the runner that has the ModelRunnerOutput."""
        self.load_report: LoadReport | None = None
        """Of the running step, for its output to take along."""
        instrument(blocks, self.slots, self.tables, self.active, own)
        if Settings.read(vllm_config.additional_config).graphs_without_steering:
            graph_sets.install(self.tables)
        self.composer = Composer()
        captures = CaptureTracker(self.active, self.listened, runner.device)
        steps = Steps(self.steered, captures, self.composer, self.active)
        self.attached = (model_runner_v2 if v2 else model_runner_v1).attach(runner, steps)
        self.tables.guessed.positions = self.attached.positions
        self.steered.guessed = guessed_positions(vllm_config)
        self.repeats: bool | None = None
        """Whether the engine computes the same bits twice; None before `check`."""

    def _here(self, slots: dict[HookPoint, int]) -> dict[HookPoint, int]:
        """Those of `slots` that are at this stage's blocks."""
        return {point: slot for point, slot in slots.items() if point.layer in self.layers}

    @property
    def own_sites(self) -> tuple[str, ...]:
        """The sites at which terms may read what is there."""
        own = {site for site, _ in self.own_slots or ()}
        return tuple(site for site in self.sites if site in own)

    @property
    def readout_sites(self) -> tuple[str, ...]:
        """The sites at which the stream can be read for a client."""
        found = tuple(dict.fromkeys(site for site, _ in self.listened))
        return (*found, "resid_mid") if "resid_mid" in self.sites else found

    def check(self) -> None:
        """Steer a probe through every layer. Raises `NotInstrumentable` if it does not reach the
        end."""
        slots = self._here(self.slots)
        own = None if self.own_slots is None else self._here(self.own_slots)
        most = self.attached.probe_tokens
        repeats = agreed(
            lambda: self_check(self.tables, slots, self.active, self.attached.probe, most, own)
        )
        self.repeats = not on_any_rank(not repeats)
        if not self.repeats:
            logger.warning(
                "This engine does not compute the same bits twice, steered or not (it adds in any "
                "order, or scales by a whole batch): unsteered answers may differ in their last "
                "bits when steered requests run beside them"
            )

    def _make_steered(self, vllm_config: "VllmConfig", bank: VectorBank) -> SteeredRequests:
        limits = dataclasses.replace(
            limits_of(vllm_config),
            sites=self.sites,
            aliases=self.aliases,
            own_sites=self.own_sites,
            readout_sites=self.readout_sites,
        )
        most = largest_addition(str(vllm_config.model_config.dtype).removeprefix("torch."))
        return SteeredRequests(self.tables, limits, self.slots, bank, most, self.own_slots)


def _find_blocks(runner: Any, vllm_config: "VllmConfig") -> list[Block]:
    found = find_blocks(runner.get_model(), num_layers(vllm_config), layer_types())
    forward = bare_forward(runner, vllm_config)
    return probe_blocks(found, forward, hidden_size(vllm_config), runner.max_num_tokens)


def _sites(vllm_config: "VllmConfig", blocks: list[Block]) -> frozenset[str]:
    """The sites that get operations of their own. They are the ones named by `--sites`. Without
    that option: all sites if every step runs Python, where an unused site costs nothing; else the
    sites of the library's vectors."""
    settings = Settings.read(vllm_config.additional_config)
    if settings.sites is not None:
        return frozenset(settings.sites.split(","))
    sites = frozenset(all_sites(blocks))
    if runs_python(vllm_config):
        return sites
    asked = sites_asked(Path(settings.library), hidden_size(vllm_config), num_layers(vllm_config))
    # A library may change while the ranks read it, and their graphs must be the same.
    return frozenset(site for site in sorted(sites) if on_any_rank(site in asked))


def _own_sites(vllm_config: "VllmConfig", aliases: Collection[str]) -> frozenset[str]:
    """The `aliases` at which terms may read what is there: each then has an operation of its own.
    In graphs, only those that `--sites` names, or for which the library has such a vector."""
    if runs_python(vllm_config):
        return frozenset(aliases)
    settings = Settings.read(vllm_config.additional_config)
    sizes = hidden_size(vllm_config), num_layers(vllm_config)
    asked = set(sites_asked(Path(settings.library), *sizes, reading=True))
    if settings.sites is not None:
        asked |= set(settings.sites.split(","))
    return frozenset(site for site in sorted(aliases) if on_any_rank(site in asked))


def _check(runner: Any, vllm_config: "VllmConfig", *, v2: bool) -> None:
    """Refuse a worker that lacks a seam, or a way of running that cannot be steered rightly."""
    from vllm.platforms import current_platform

    seams.check(seams.WORKER, V2_WORKER if v2 else V1_WORKER)
    check_device(current_platform)
    check_ways(vllm_config)
    if v2:
        check_v2(runner, vllm_config)
    else:
        check_v1(Settings.read(vllm_config.additional_config))
    if runner.device.type == "cpu":
        seams.check(seams.CPU_WORKER)
