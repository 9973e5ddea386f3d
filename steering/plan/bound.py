"""How much a request may add: a bound that holds whatever limits an operator sets.

A token whose stream overflows leaves NaN among the keys and values of the cache, and from there it
reaches the next owner of its blocks. So the sum of what is added to any one element of the stream
stays far under what the model's dtype holds, and what a norm can square.
"""

from collections.abc import Sequence
from typing import Final

from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.plan import Plan

_LARGEST: Final = {"float16": 65504.0, "bfloat16": 3.38e38, "float32": 3.40e38}
_NORM: Final = 2.0**50
"""A norm squares the stream in float32 and sums it: 2^50 squared, times 2^20 dimensions, is 2^120.
"""


def largest_addition(dtype: str) -> float:
    """Most that one request may add to one element of the stream of a model of this dtype, such as
    "float16", summed over its vectors and all hook points: a quarter of what the dtype holds, at
    most 2^50. Raises KeyError for a dtype that no model runs in."""
    return min(_LARGEST[dtype] / 4, _NORM)


def most_added(plan: Plan, elements: Sequence[float]) -> float:
    """Most that `plan` adds to one element of the stream at any token.

    `elements` has for each vector of the plan the largest absolute element of its tensors (over the
    steps), summed over its hook points.
    """
    start = 0.0 if plan.dynamic is None else plan.dynamic.start
    total = 0.0
    for vector, size in zip(plan.vectors, elements, strict=True):
        # Of two factors, one at 0 and one not finite, the product is not a number: that is over.
        total += max(vector.strongest, start) * size
    return total


def check_added(plan: Plan, elements: Sequence[float], most: float) -> None:
    """Raise `PlanInvalid` where `plan` adds over `most` to one element of the stream; arguments as
    of `most_added`."""
    added = most_added(plan, elements)
    if not added <= most:
        raise PlanInvalid(
            f"the vectors add up to {added:.3g} in one element of the residual stream, over the "
            f"{most:.3g} that this model's dtype bears; lower the coefficients, or use vectors of "
            "a norm like the stream's",
            param="steering.vectors",
            code="addition_too_large",
        )
