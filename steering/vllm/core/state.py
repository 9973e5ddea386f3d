"""The attributes that the seams add to vLLM's scheduler; their names begin with `steering_`."""

from typing import TYPE_CHECKING

from steersman.steering.plan.receipt import Waiting
from steersman.steering.plan.settings import Settings
from steersman.steering.scheduler.admission import AdmissionQueue
from steersman.steering.scheduler.companions import CompanionScheduler
from steersman.steering.scheduler.loads import LoadBook
from steersman.steering.vllm import seams
from steersman.steering.vllm.config import step_entries
from steersman.steering.vllm.core.request import companion_of

if TYPE_CHECKING:
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.request import Request

    class SteeredScheduler(Scheduler):
        """vLLM's scheduler with what `begin` adds to it."""

        steering_admission: AdmissionQueue
        steering_companions: CompanionScheduler
        steering_held: dict[str, Request]
        """Requests that wait for bank rows, or for these to be filled, and those that end because
        too many wait, by id."""
        steering_refused: set[str]
        """Ids of those that end."""
        steering_waiting: Waiting
        """How many wait, as the front end knows it."""
        steering_soiled: set[int]
        """Blocks to fill with zeros before the next step: they may hold NaN."""
        steering_unseen: dict[str, set[int]]
        """For each aborted request that a step still computes, its blocks that others share."""
        steering_unseen_until: dict[str, int]
        """The last step that may report a request in `steering_unseen` as failed."""
        # The rest is used by `portions`.
        steering_captured: dict[str, int]
        """The portion of each captured request, in tokens a step; 0: it is not divided."""
        steering_aligned: bool
        """vLLM's own value of `need_mamba_block_aligned_split`."""
        steering_divides: bool
        """Whether a prompt can be divided at any token."""
        steering_portion_left: int | None
        """Tokens of captured prompts that the step may still take; None before the first prompt."""


def begin(scheduler: "SteeredScheduler") -> None:
    """Add the attributes to a new scheduler."""
    if scheduler.connector is not None:
        seams.check(seams.OFFLOADING)
    settings = Settings.read(scheduler.vllm_config.additional_config)
    scheduler.steering_admission = AdmissionQueue(
        settings.bank_rows,
        settings.max_waiting,
        LoadBook(settings.bank_rows, settings.load_timeout),
        step_entries(scheduler.vllm_config),
    )
    scheduler.steering_companions = CompanionScheduler(
        scheduler, settings.max_dynamic, companion_of
    )
    scheduler.steering_held = {}
    scheduler.steering_refused = set()
    scheduler.steering_waiting = waiting_of(scheduler)
    scheduler.steering_soiled = set()
    scheduler.steering_unseen = {}
    scheduler.steering_unseen_until = {}
    scheduler.steering_captured = {}
    scheduler.steering_aligned = scheduler.need_mamba_block_aligned_split
    scheduler.steering_divides = (
        scheduler.scheduler_config.enable_chunked_prefill
        and scheduler.vllm_config.speculative_config is None
        # Such models have places of their own at which a prompt may be cut.
        and not scheduler.need_mamba_block_aligned_split
    )
    scheduler.steering_portion_left = None


def waiting_of(scheduler: "SteeredScheduler") -> Waiting:
    """How many requests wait now."""
    admission = scheduler.steering_admission
    engine = scheduler.vllm_config.parallel_config.data_parallel_index
    return Waiting(engine, admission.waiting, admission.loads.waiting)
