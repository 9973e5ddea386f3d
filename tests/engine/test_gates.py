"""Gates: exact against Hugging Face, unsteered bit for bit where they do not pass, in caches, in
chunks and after preemption. On a tiny model."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from steersman.steering.plan import Plan, PositionRule
from steersman.steering.plan.plan import as_float32
from steersman.steering.plan.when.gates import (
    MEASURES,
    OVERS,
    Over,
    PlannedGate,
)
from steersman.steering.plan.wire.readouts import Readout
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint
from tests.reference import interventions as slow
from tests.reference.reference import ReferenceModel
from tests.support.engine.engine import Answer, Ask, Engine, furthest
from tests.support.engine.gates import EVERYWHERE, Making, judge
from tests.support.engine.operations import Operations
from tests.support.engine.v2_asks import prompt as random_prompt
from tests.support.matrix import tiny

TOLERANCE = 1e-4
BLOCK = 32


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> ReferenceModel:
    return ReferenceModel(tiny_model)


@pytest.fixture(scope="module")
def own_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other tests have vectors of the same names, for another model."""
    return tmp_path_factory.mktemp("tiny-library")


@pytest.fixture(scope="module")
def operations(tiny_model: Path, own_library: Path) -> Operations:
    norms = tiny.stream_norms(tiny_model, random_prompt(0, 100))
    return Operations(Library(own_library), dict.fromkeys(EVERYWHERE, norms), tiny.HIDDEN)


@pytest.fixture(scope="module")
def roomy(start_engine: Callable[..., Engine], tiny_model: Path, own_library: Path) -> Engine:
    return start_engine(
        {"max_segments": 8, "library": str(own_library)},
        model=str(tiny_model),
        kv_cache_memory_bytes=2**26,
        max_num_batched_tokens=2048,
        max_model_len=256,
    )


@pytest.fixture(scope="module")
def narrow(start_engine: Callable[..., Engine], tiny_model: Path, own_library: Path) -> Engine:
    """Sixteen tokens a step, and cache for eight blocks of 32."""
    return start_engine(
        {"bank_rows": 24, "library": str(own_library)},
        model=str(tiny_model),
        max_num_batched_tokens=16,
        max_num_seqs=8,
        max_model_len=192,
        num_gpu_blocks_override=9,
        kv_cache_memory_bytes=2**26,
    )


@pytest.fixture(scope="module")
def making(operations: Operations, reference: ReferenceModel) -> Making:
    return Making(operations, reference)


CASES = 60


def test_log_probabilities_and_receipts_equal_the_reference(
    roomy: Engine, making: Making, reference: ReferenceModel
) -> None:
    chance = random.Random(0)
    cases = [making.case(chance) for _ in range(CASES)]
    roomy.forget()
    found = roomy.noted(*(case.ask for case in cases))
    clear, worst, decisions = 0, 0.0, []
    for case, (answer, notes) in zip(cases, found, strict=True):
        difference, near, decided = judge(case, answer, notes, reference)
        if near > TOLERANCE:
            clear += 1
            worst = max(worst, difference)
            decisions += decided
            assert difference <= TOLERANCE, case.ask.plan
    print(f"\ngates: worst difference {worst:.2e} over {clear} requests")
    # Where a measure is as good as its threshold, either may be right.
    assert clear > 0.9 * CASES
    some = [passed for passed in decisions if passed]
    assert sum(any(p) and not all(p) for p in some) > 5
    assert sum(all(p) for p in some) > 5
    assert sum(not any(p) for p in some) > 5


def plan_of(
    making: Making, gate: PlannedGate, positions: PositionRule, coefficient: float = 0.5
) -> Plan:
    terms = (HookPoint("resid_post", 1), HookPoint("resid_post", 2))
    vector = making.operations.planned("add", 0, coefficient, terms, positions)
    return Plan((replace(vector, gate=gate),))


POINT = HookPoint("resid_post", 0)


def never(gate: PlannedGate) -> PlannedGate:
    """What this gate measures is never so."""
    return replace(gate, threshold=as_float32(1e9), below=False)


@pytest.mark.parametrize("over", OVERS)
def test_unsteered_bit_for_bit_where_a_gate_does_not_pass(
    roomy: Engine, making: Making, over: Over
) -> None:
    prompts = [random_prompt(n, size) for n, size in enumerate((3, 40, 17, 70))]
    positions = "all" if over == "token" else "generation"
    plans = [
        plan_of(making, making.gate(prompt, POINT, measure, over, 0.0), positions)
        for prompt, measure in zip(prompts, (*MEASURES, "cast"), strict=True)
    ]
    closed = [
        replace(plan, vectors=(replace(plan.vectors[0], gate=never(plan.gates[0])),))
        for plan in plans
    ]

    def asked(plans: list[Plan | None]) -> list[Answer]:
        roomy.forget()
        return roomy.ask(
            *(Ask(p, plan, 8, prompt_logprobs=True) for p, plan in zip(prompts, plans, strict=True))
        )

    plain = asked([None] * 4)
    assert asked([*closed]) == plain
    mixed = asked([plans[0], closed[1], plans[2], None])
    assert (mixed[1], mixed[3]) == (plain[1], plain[3])
    ungated = [replace(plan, vectors=(replace(plan.vectors[0], gate=None),)) for plan in plans]
    assert all(one != other for one, other in zip(asked([*ungated]), plain, strict=True))


def fresh(engine: Engine, prompt: tuple[int, ...], plan: Plan | None) -> Answer:
    engine.forget()
    (answer,) = engine.ask(Ask(prompt, plan))
    assert answer.cached == 0
    return answer


def test_a_gated_answer_replayed(roomy: Engine, making: Making) -> None:
    """Blocks of gated tokens are for requests with the same gate, decided at the same place."""
    prompt = random_prompt(5, 70)
    gate = making.gate(prompt, POINT, "cosine", "token", 0.5)
    plan = plan_of(making, gate, "generation")
    roomy.forget()
    (first,) = roomy.ask(Ask(prompt, plan, 40))
    history = prompt + first.tokens

    def under(gate: PlannedGate | None, positions: PositionRule) -> Plan:
        return Plan((replace(plan.vectors[0], gate=gate, positions=positions),))

    since = (69, 200)
    (same,) = roomy.ask(Ask(history, under(gate, since)))
    assert same.cached == (len(history) - 1) // BLOCK * BLOCK
    others = [
        None,
        under(None, since),
        under(replace(gate, measure="projection"), since),
        under(replace(gate, threshold=as_float32(gate.threshold + 1e-4)), since),
    ]
    for other in others:
        (answer,) = roomy.ask(Ask(history, other))
        assert answer.cached == 69 // BLOCK * BLOCK
        again = fresh(roomy, history, other)
        assert answer.tokens == again.tokens
        assert furthest(answer.logprobs, again.logprobs) <= TOLERANCE
        roomy.forget()
        roomy.ask(Ask(prompt, plan, 40))
    again = fresh(roomy, history, under(gate, since))
    assert same.tokens == again.tokens
    assert furthest(same.logprobs, again.logprobs) <= TOLERANCE


def test_what_is_decided_at_another_token_is_not_shared(roomy: Engine, making: Making) -> None:
    """The same tokens steered, and another that decided."""
    prompt = random_prompt(6, 70)
    gate = making.gate(prompt, POINT, "cosine", "prompt_last", 0.9)
    roomy.forget()
    (first,) = roomy.ask(Ask(prompt, plan_of(making, gate, (-1, 200)), 40))
    history = prompt + first.tokens
    (same,) = roomy.ask(Ask(prompt, plan_of(making, gate, (-1, 200)), 1))
    assert same.cached == 69 // BLOCK * BLOCK
    shorter = Ask(history[:66], plan_of(making, gate, "answer:3:"), 40)
    (other,) = roomy.ask(shorter)
    (after,) = roomy.ask(Ask(history[:100], plan_of(making, gate, "generation"), 1))
    assert other.cached == 64
    assert after.cached == 64


def test_the_prompt_of_a_mean_is_computed(roomy: Engine, making: Making) -> None:
    prompt = random_prompt(7, 70)
    gate = making.gate(prompt, POINT, "cast", "prompt_mean", 0.1)
    roomy.forget()
    roomy.ask(Ask(prompt))
    (plain,) = roomy.ask(Ask(prompt))
    assert plain.cached == 64
    asked = Ask(prompt, plan_of(making, gate, "generation"), 6)
    ((answer, (note,)),) = roomy.noted(asked)
    assert answer.cached == 0
    assert note.gates[0].value is not None


@pytest.mark.parametrize("over", OVERS)
def test_however_tokens_are_batched(
    roomy: Engine, narrow: Engine, making: Making, reference: ReferenceModel, over: Over
) -> None:
    """Sixteen tokens a step, and long answers that crowd each other out of the cache."""
    positions = "all" if over == "token" else "generation"
    asks = []
    for n, measure in enumerate((*MEASURES, "cosine")):
        prompt = random_prompt(30 + n, 50)
        gate = making.gate(prompt, POINT, measure, over, 0.4 if n % 2 else 0.6)
        asks.append(Ask(prompt, plan_of(making, gate, positions, 0.1), 60))
    before = narrow.metric("vllm:num_preemptions")
    narrow.forget()
    found = narrow.noted(*asks)
    assert narrow.metric("vllm:num_preemptions") > before
    clear = 0
    for ask, (answer, notes) in zip(asks, found, strict=True):
        difference, near, _ = judge(making.told(ask), answer, notes, reference)
        if near > TOLERANCE:
            clear += 1
            assert difference <= TOLERANCE
            roomy.forget()
            ((whole, (note,)),) = roomy.noted(ask)
            assert answer.tokens == whole.tokens
            told = notes[0].gates[0]
            assert note.gates[0]._replace(value=None) == told._replace(value=None)
    assert clear >= 3


# Markers


def marked(making: Making, positions: PositionRule, gate: PlannedGate | None = None) -> Plan:
    terms = (HookPoint("resid_post", 1), HookPoint("attn_out", 2))
    vector = making.operations.planned("add", 1, 0.4, terms, positions)
    return Plan((replace(vector, gate=gate),))


def test_markers_equal_the_reference(
    roomy: Engine, narrow: Engine, making: Making, reference: ReferenceModel
) -> None:
    """In the prompt and in the answer, of one token and of two, with a gate, and nowhere; whole and
    in chunks of sixteen tokens."""
    prompt = random_prompt(50, 45)
    roomy.forget()
    (plain,) = roomy.ask(Ask(prompt, None, 40))
    told = making.gate(prompt, POINT, "cosine", "token", 0.5)
    first = next(n for n in range(3, 40) if plain.tokens[n] not in (*prompt, *plain.tokens[:n]))
    new = f"{plain.tokens[first]}"
    pair = f"{plain.tokens[first - 1]},{new}"
    across = f"{prompt[-1]},{plain.tokens[0]}"
    rules = (
        f"after:{prompt[20]}",
        f"after:{new}",
        f"after:{pair}",
        f"after:{across}",
        "after:575,575",
    )
    plans = [marked(making, rule) for rule in rules]
    plans += [marked(making, rule.replace("after", "until")) for rule in rules]
    plans += [marked(making, f"after:{prompt[7]}", told), marked(making, f"until:{new}", told)]
    asks = [Ask(prompt, plan, 40) for plan in plans]
    before = narrow.metric("vllm:num_preemptions")
    for engine in (roomy, narrow):
        engine.forget()
        found = engine.noted(*asks)
        for ask, (answer, notes) in zip(asks, found, strict=True):
            assert ask.plan is not None
            difference, near, _ = judge(making.told(ask), answer, notes, reference)
            assert (ask.plan.gates and near <= TOLERANCE) or difference <= TOLERANCE, ask.plan
            if not ask.plan.gates and engine is roomy:
                positions = making.told(ask).ones[0].positions
                text = [*prompt, *answer.tokens]
                count = sum(
                    slow.is_at(t, len(prompt), positions, text) for t in range(len(text) - 1)
                )
                assert [note.steered_tokens for note in notes] == [(count,)]
        assert found[1][0].tokens[: first + 1] == plain.tokens[: first + 1]
        assert found[1][0].tokens != plain.tokens
        assert found[4][0].tokens == plain.tokens
    assert narrow.metric("vllm:num_preemptions") > before


def test_a_marked_answer_replayed(roomy: Engine, making: Making) -> None:
    """The same marker finds all its blocks, another finds none of them, and says the same as if
    there were no cache."""
    prompt = random_prompt(51, 40)
    plan = marked(making, f"after:{prompt[30]}")
    roomy.forget()
    (first,) = roomy.ask(Ask(prompt, plan, 40))
    history = prompt + first.tokens
    (same,) = roomy.ask(Ask(history, plan))
    assert same.cached == (len(history) - 1) // BLOCK * BLOCK
    (other,) = roomy.ask(Ask(history, marked(making, f"after:{prompt[31]}")))
    assert other.cached == 0
    for one, answer in ((plan, same), (marked(making, f"after:{prompt[31]}"), other)):
        again = fresh(roomy, history, one)
        assert answer.tokens == again.tokens
        assert furthest(answer.logprobs, again.logprobs) <= TOLERANCE


def test_gates_beside_reads(roomy: Engine, making: Making) -> None:
    """What is read of a request changes nothing of what its gates decide."""
    prompt = random_prompt(60, 40)
    for over in OVERS:
        gate = making.gate(prompt, POINT, "cosine", over, 0.6)
        plan = plan_of(making, gate, "generation")
        (vector,) = plan.vectors
        reading = Readout(vector.digest, (HookPoint("resid_post", 2),), "projection", "answer")
        roomy.forget()
        ((alone, (counts,)),) = roomy.noted(Ask(prompt, plan, 8))
        roomy.forget()
        ((beside, (both,)),) = roomy.noted(Ask(prompt, replace(plan, readouts=(reading,)), 8))
        assert beside == alone
        assert both.gates == counts.gates
        assert both.steered_tokens == counts.steered_tokens
        assert sum(len(chunk.values) for chunk in both.reads) == 4 * 8
