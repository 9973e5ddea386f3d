"""What every way of running is asked: each position rule, site and kind of meeting, and neighbours
that are not steered."""

import random

from steersman.steering.plan import Plan, PlannedVector, PositionRule
from steersman.steering.plan.plan import as_float32
from steersman.vectors.tensors import HookPoint
from tests.support.engine.engine import Ask

NEW_TOKENS = 12
LENGTHS = (70, 40, 1, 150, 33, 64, 20, 97, 5, 32, 50)


def one(
    digest: str,
    coefficient: float,
    layers: tuple[int, ...],
    positions: PositionRule = "generation",
    site: str = "resid_post",
) -> PlannedVector:
    """One vector of a plan."""
    terms = tuple(HookPoint(site, layer) for layer in layers)
    return PlannedVector(digest, as_float32(coefficient), terms, positions)


def questions(a: str, b: str, vocab: int, *, first: int = 0, last: int = 2) -> list[Ask]:
    """Requests over two vectors (digests `a`, `b`), steered at layers `first` to `last`."""
    middle = (first + last) // 2
    plans = [
        Plan((one(a, 0.5, (middle,)),)),
        None,
        Plan((one(b, 0.5, (first, last), "after_prompt", "mlp_out"),)),
        Plan((one(a, -0.4, (first, middle), "prompt"),)),
        None,
        # Two at one layer, another site of the same layer beside them.
        Plan(
            (
                one(a, 0.4, (middle,), "all"),
                one(b, -0.3, (middle,), (3, 60)),
                one(b, 0.3, (middle, last), "generation", "attn_out"),
            )
        ),
        None,
        Plan((one(b, 0.5, (middle, last), (-3, 10_000), "attn_out"),)),
        Plan((one(a, 0.6, (first,), "all"),)),
        None,
        Plan((one(a, 0.3, (first, middle, last), (10, 20)), one(b, 0.3, (last,), "generation"))),
    ]
    chance = random.Random(0)
    prompts = [tuple(chance.randrange(vocab) for _ in range(length)) for length in LENGTHS]
    return [Ask(prompt, plan, NEW_TOKENS) for prompt, plan in zip(prompts, plans, strict=True)]
