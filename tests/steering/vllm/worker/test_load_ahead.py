"""Orders come with a step, and what became of loads leaves with its output."""

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput

from steersman.steering.plan.wire.loads import (
    LOADS_ATTRIBUTE,
    ORDERS_ATTRIBUTE,
    LoadOrders,
    LoadReport,
)
from steersman.steering.vllm.worker import load_ahead

REPORT = LoadReport({1: 0.5}, {})


class Wrapper(SimpleNamespace):
    """vLLM's, as far as the seam uses it; `happened` has what is called, in order."""

    def __init__(self, empty: bool, output: Any, holder: str = "inner") -> None:
        self.happened: list[str] = []
        loads = SimpleNamespace(
            take=lambda _: self.happened.append("take"),
            wait=lambda _: self.happened.append("wait"),
            report=self.report,
        )
        super().__init__(
            steering=SimpleNamespace(loads=loads, load_report=None, holder=holder),
            worker=SimpleNamespace(sample_tokens=lambda _: output),
            output=output if empty else None,
        )

    def report(self) -> LoadReport:
        self.happened.append("report")
        return REPORT

    def step(self, tokens: int, *, orders: bool = True) -> Any:
        """As an executor: `sample_tokens` where `execute_model` returns nothing."""

        def execute_model(self: Any, _: Any) -> Any:
            self.happened.append("compute")
            return self.output

        scheduled = SimpleNamespace(total_num_scheduled_tokens=tokens)
        if orders:
            setattr(scheduled, ORDERS_ATTRIBUTE, LoadOrders((), ()))
        output = load_ahead._loading(execute_model)(self, scheduled)
        return load_ahead.sample_tokens(self, None) if output is None else output  # type: ignore[arg-type]


def test_a_step_that_computes_waits_for_nothing() -> None:
    wrapper = Wrapper(empty=False, output=ModelRunnerOutput([], {}))
    output = wrapper.step(tokens=3)
    assert wrapper.happened == ["take", "compute", "report"]
    assert getattr(output, LOADS_ATTRIBUTE) == REPORT
    assert wrapper.steering.load_report is None


def test_an_asynchronous_output_carries_the_report_inside() -> None:
    inner = ModelRunnerOutput([], {})
    wrapper = Wrapper(empty=False, output=SimpleNamespace(inner=inner))
    assert wrapper.step(tokens=3).inner is inner
    assert getattr(inner, LOADS_ATTRIBUTE) == REPORT


def test_a_step_that_computes_nothing_has_an_output_of_its_own() -> None:
    """vLLM's is one object for all of them."""
    wrapper = Wrapper(empty=True, output=EMPTY_MODEL_RUNNER_OUTPUT)
    output = wrapper.step(tokens=0)
    assert wrapper.happened == ["take", "compute", "wait", "report"]
    assert getattr(output, LOADS_ATTRIBUTE) == REPORT
    assert not hasattr(EMPTY_MODEL_RUNNER_OUTPUT, LOADS_ATTRIBUTE)


@pytest.mark.parametrize("empty", [True, False])
def test_a_step_without_orders_is_left_alone(empty: bool) -> None:
    output = ModelRunnerOutput([], {})
    wrapper = Wrapper(empty, output)
    assert wrapper.step(0 if empty else 3, orders=False) is output
    assert wrapper.happened == ["compute"]
    assert not hasattr(output, LOADS_ATTRIBUTE)
