"""When a receipt says that nothing could have changed."""

from typing import Any

import pytest

from steersman.server.chat.receipt import UNCHANGED, ZERO, note
from steersman.steering.plan import Dynamic, Plan, PlannedVector
from steersman.vectors.tensors import HookPoint


def plan(*rules: Any, coefficient: float = 1.0, dynamic: bool = False) -> Plan:
    vectors = tuple(
        PlannedVector("sha256:" + "0" * 64, coefficient, (HookPoint("resid_post", 1),), rule)
        for rule in rules
    )
    return Plan(vectors, "r", Dynamic(1.0, 0.9, True) if dynamic else None)


@pytest.mark.parametrize(
    ("rules", "sampled", "said"),
    [
        (["generation"], 0, UNCHANGED),
        (["after_prompt"], 0, UNCHANGED),
        (["generation", "after_prompt"], 0, UNCHANGED),
        ([(-1, 9)], 0, UNCHANGED),
        (["all"], 0, None),
        (["prompt"], 0, None),
        (["generation", "all"], 0, None),
        ([(-2, 9)], 0, None),
        ([(0, 1)], 0, None),
        (["generation"], 1, None),
        (["after_prompt"], 1, UNCHANGED),
        (["after_prompt"], 2, None),
        (["generation", "after_prompt"], 1, None),
        (["generation"], None, None),
        (["after_prompt"], None, None),
    ],
)
def test_where_the_steered_tokens_are(rules: list[Any], sampled: int | None, said: Any) -> None:
    assert note(plan(*rules), sampled) == said


def test_a_coefficient_of_zero_changes_nothing() -> None:
    assert note(plan("all", coefficient=0.0), None) == ZERO
    assert note(plan("generation", coefficient=0.0, dynamic=True), None) is None
