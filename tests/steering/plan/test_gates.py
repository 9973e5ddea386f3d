"""Gates in plans: on the wire, in keys of the prefix cache, and what is refused."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from steersman.steering.plan import Plan, PlanInvalid, PlannedVector
from steersman.steering.plan.dynamic import Dynamic
from steersman.steering.plan.when.gates import MAX_GATES, PlannedGate, comes_first
from steersman.vectors.operation import Operation
from steersman.vectors.tensors import HookPoint
from tests.support.steering.make import digest, limits, plan_of, planned

PROMPT = 9
POINT = HookPoint("resid_post", 1)
GATE = PlannedGate(digest(9), POINT, "cosine", 0.25)


def gated(gate: PlannedGate = GATE, **changes: Any) -> PlannedVector:
    return replace(planned(1, 0.5, (2, 4), "generation"), gate=gate, **changes)


def test_a_plan_travels_with_its_gates() -> None:
    plan = plan_of(
        gated(), planned(2), gated(replace(GATE, below=True, over="prompt_mean", measure="cast"))
    )
    assert Plan.from_json(plan.to_json()) == plan
    assert list(plan.gates) == [0, 2]
    assert plan.reads


def test_a_plan_without_gates_says_nothing_of_them() -> None:
    plan = plan_of(planned(1))
    assert "gate" not in plan.to_json()
    assert not plan.reads


@pytest.mark.parametrize(
    ("said", "other"),
    [('"cosine"', '"cosin"'), ("0.25", '"much"'), ('"token"', '"prompt"'), ("sha256:", "md5:")],
)
def test_a_gate_that_no_plan_would_have(said: str, other: str) -> None:
    text = plan_of(gated(replace(GATE, over="token"))).to_json()
    with pytest.raises(PlanInvalid):
        Plan.from_json(text.replace(said, other))


def test_its_vector_is_in_the_bank() -> None:
    plan = plan_of(gated())
    assert (digest(9), *POINT, -1) in plan.bank_keys
    assert plan.bank_rows == 3 == len(plan.bank_keys)


def test_cache_keys_name_the_gate() -> None:
    others = [
        planned(1, 0.5, (2, 4), "generation"),
        gated(),
        gated(replace(GATE, threshold=0.5)),
        gated(replace(GATE, below=True)),
        gated(replace(GATE, measure="projection")),
        gated(replace(GATE, point=HookPoint("attn_out", 1))),
        gated(replace(GATE, digest=digest(8))),
        gated(replace(GATE, over="prompt_last")),
        gated(replace(GATE, over="prompt_mean")),
    ]
    for one, other in combinations(others, 2):
        keys = [plan_of(vector).cache_key(8, 16, PROMPT) for vector in (one, other)]
        assert None not in keys
        assert keys[0] != keys[1], (one, other)
    assert plan_of(gated()).cache_key(0, 8, PROMPT) is None


def test_what_the_prompt_decides_has_the_prompts_length_in_its_key() -> None:
    def key(over: Any, positions: Any, prompt: int) -> str | None:
        return plan_of(gated(replace(GATE, over=over), positions=positions)).cache_key(
            16, 24, prompt
        )

    assert key("token", (10, 30), 12) == key("token", (10, 30), 16)
    assert key("prompt_last", "generation", 12) != key("prompt_last", "generation", 13)


def refused(plan: Plan, **changes: object) -> tuple[str, str]:
    with pytest.raises(PlanInvalid) as caught:
        limits(**changes).check(plan, PROMPT)
    return caught.value.param, caught.value.code


@pytest.mark.parametrize("over", ["token", "prompt_last", "prompt_mean"])
def test_a_sound_plan_passes(over: Any) -> None:
    gate = replace(GATE, over=over)
    limits().check(plan_of(gated(gate), gated(gate, operation=Operation("project"))), PROMPT)
    limits().check(plan_of(gated(gate, positions="answer:2:5", schedule=(1.0, 0.5))), PROMPT)


def many(number: int) -> Plan:
    return plan_of(*(gated(terms=(HookPoint("resid_post", 2),)) for _ in range(number)))


@pytest.mark.parametrize(
    ("plan", "param", "changes"),
    [
        (plan_of(gated()), "gate", {"no_gates": "pipeline parallel"}),
        (plan_of(gated()), "gate", {"operations": ("add",)}),
        (many(MAX_GATES + 1), "gate", {"max_terms": 20}),
        (plan_of(gated(replace(GATE, threshold=float("nan")))), "gate.above", {}),
        (plan_of(gated(replace(GATE, threshold=float("inf"), below=True))), "gate.below", {}),
        (plan_of(gated(steps=3)), "gate", {}),
        (Plan((gated(),), dynamic=Dynamic(1.0, 0.9, True)), "gate", {}),
        (plan_of(gated(replace(GATE, point=HookPoint("resid_post", 99)))), "gate.layer", {}),
        (plan_of(gated(replace(GATE, point=HookPoint("nowhere", 1)))), "gate.id", {}),
        (plan_of(gated(replace(GATE, point=HookPoint("resid_post", 3)))), "gate.layer", {}),
        (plan_of(gated(replace(GATE, over="prompt_last"), positions="all")), "positions", {}),
        (plan_of(gated(replace(GATE, over="prompt_mean"), positions=(8, 9))), "positions", {}),
    ],
)
def test_what_cannot_be_decided_is_refused_by_its_key(
    plan: Plan, param: str, changes: dict[str, object]
) -> None:
    """Whoever wrote it: workers check every plan."""
    where, _ = refused(plan, **changes)
    assert where == f"steering.vectors[0].{param}"


ORDER = ("attn_out", "resid_mid", "mlp_out", "resid_post")


@pytest.mark.parametrize("sequential", [True, False])
def test_the_order_of_hook_points(sequential: bool) -> None:
    def first(a: tuple[str, int], b: tuple[str, int]) -> bool:
        return comes_first(HookPoint(*a), HookPoint(*b), sequential=sequential)

    for n, one in enumerate(ORDER):
        assert first((one, 1), (one, 1))
        for other in ORDER:
            assert first((one, 1), (other, 2))
            assert not first((one, 2), (other, 1))
        for other in ORDER[n + 1 :]:
            beside = not sequential and other != "resid_post"
            assert first((one, 1), (other, 1)) == (not beside)
            assert not first((other, 1), (one, 1))
