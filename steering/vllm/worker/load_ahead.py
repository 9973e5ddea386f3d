"""Seam: the steps of vLLM's workers (`v1/worker/worker_base.py: WorkerWrapperBase`).

Orders to load vectors come with a SchedulerOutput, and the report of the loads that are over leaves
with the ModelRunnerOutput of the same step: that of `execute_model` where the step computes
nothing, else that of `sample_tokens`. Both model runners and all executors pass here.
"""

import copy
from typing import TYPE_CHECKING, Any, Final

from steersman.steering.plan.wire.loads import LOADS_ATTRIBUTE, ORDERS_ATTRIBUTE, LoadReport
from steersman.steering.vllm.seam import Function, wrap

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput

    from steersman.steering.vllm.worker.rpc import SteeredWrapper

PAUSE_S: Final = 0.002
"""How long a step that computes nothing waits for a vector: nothing else keeps the engine core from
asking again at once. A request that comes meanwhile waits so long."""


def install() -> None:
    """Wrap the worker's methods. Idempotent."""
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    wrap(WorkerWrapperBase, "execute_model", _loading)
    # vLLM's wrapper forwards this one to the worker.
    WorkerWrapperBase.sample_tokens = sample_tokens  # type: ignore[attr-defined]


def _loading(original: Function) -> Function:
    def execute_model(self: "SteeredWrapper", scheduler_output: "SchedulerOutput") -> Any:
        orders = getattr(scheduler_output, ORDERS_ATTRIBUTE, None)
        if orders is None:
            return original(self, scheduler_output)
        loads = self.steering.loads
        loads.take(orders)
        output = original(self, scheduler_output)
        if not scheduler_output.total_num_scheduled_tokens:
            loads.wait(PAUSE_S)
        # The forward pass is queued: rows are filled while a device computes it, and behind it.
        self.steering.load_report = report = loads.report()
        if output is None:
            return None
        self.steering.load_report = None
        # The output of a step that computes nothing is one and the same for all of them.
        return _with(copy.copy(output), report, self.steering.holder)

    return execute_model


def sample_tokens(self: "SteeredWrapper", *args: Any, **kwargs: Any) -> Any:
    """The step's output, with the report of its loads."""
    output = self.worker.sample_tokens(*args, **kwargs)
    if self.steering is not None and self.steering.load_report is not None:
        report, self.steering.load_report = self.steering.load_report, None
        output = _with(output, report, self.steering.holder)
    return output


def _with(output: Any, report: LoadReport, holder: str) -> Any:
    if output is not None:
        setattr(getattr(output, holder, output), LOADS_ATTRIBUTE, report)
    return output
