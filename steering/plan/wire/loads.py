"""Vectors on their way into the bank: what the scheduler asks of the workers, and what they answer.

Scheduler -> `LoadOrders` on a step's SchedulerOutput -> every worker -> `LoadReport`, on which all
ranks agree, on the step's output.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from steersman.steering.plan.plan import EVERY_STEP, BankKey, VectorRows
from steersman.vectors.tensors import HookPoint

ORDERS_ATTRIBUTE: Final = "steersman_load_orders"
"""Attribute of SchedulerOutput that carries the `LoadOrders`; missing where nothing is loaded."""

LOADS_ATTRIBUTE: Final = "steersman_loads"
"""Attribute of ModelRunnerOutput that carries the `LoadReport`."""


class Load(NamedTuple):
    """Rows of one vector that are to be filled."""

    number: int
    """Names the load: the scheduler counts them."""
    digest: str
    points: tuple[HookPoint, ...]
    steps: int
    """Tensors that the vector has at each of them: one for each step, or 1 for all."""


class LoadOrders(NamedTuple):
    """What the workers are to do, in this order; and they report on all loads that are not over."""

    evict: tuple[VectorRows, ...]
    """Rows that are not needed any more, filled or not: their loads go on without them."""
    load: tuple[Load, ...]


class LoadReport(NamedTuple):
    """The loads that are over, on all ranks."""

    ready: dict[int, float]
    """By number, the seconds that a thread took to read the vector."""
    failed: dict[int, str]
    """By number, why. Nothing of such a load is kept."""


def keys_of(rows: VectorRows) -> Iterator[BankKey]:
    """What each of the rows holds."""
    digest, site, layer, steps = rows
    for step in (EVERY_STEP,) if steps == 1 else range(steps):
        yield BankKey(digest, site, layer, step)
