"""vLLM's V2 model runner: all that holds for V1, on one real engine and a tiny model.

Triton's interpreter runs the runner's kernels (tests/support/standin), so a step takes a tenth of a
second.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steersman.steering.plan import Plan, PlannedVector
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint
from tests.engine.conftest import SITES, Shelf
from tests.reference.interventions import Intervened
from tests.reference.lens import assert_tokens
from tests.reference.reference import ReferenceModel
from tests.support.engine import reads, v2_asks
from tests.support.engine.dynamic import Setting, distances
from tests.support.engine.engine import Answer, Ask, Engine, furthest
from tests.support.engine.gates import Making, judge
from tests.support.engine.operations import READING, SETTINGS, Operations
from tests.support.engine.remote import RemoteEngine, RemoteFailed
from tests.support.matrix import exams_special, tiny
from tests.support.standin import v2_environment

TOLERANCE = 1e-4
BLOCK = 32


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny_reference(tiny_model: Path) -> ReferenceModel:
    return ReferenceModel(tiny_model)


@pytest.fixture(scope="module")
def vectors(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    norms = tiny.stream_norms(tiny_model, v2_asks.prompt(0, 100))
    return Shelf(tmp_path_factory.mktemp("library"), norms, tiny.HIDDEN)


@pytest.fixture(scope="module")
def v2(tiny_model: Path, vectors: Shelf) -> Iterator[RemoteEngine]:
    """Prompts in chunks of 48 tokens, 16 blocks of cache: long answers crowd each other out."""
    # V2 is what vLLM chooses where nobody says which.
    environment = v2_environment()
    del environment["VLLM_USE_V2_MODEL_RUNNER"]
    engine = RemoteEngine(
        environment
        | {
            "VLLM_PLUGINS": "steersman",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "WARNING",
        },
        model=str(tiny_model),
        dtype="float32",
        enforce_eager=True,
        disable_log_stats=False,
        block_size=BLOCK,
        max_model_len=256,
        max_num_batched_tokens=48,
        max_num_seqs=8,
        num_gpu_blocks_override=17,
        kv_cache_memory_bytes=2**26,
        additional_config={
            "steersman": {"library": str(vectors.library.root), "max_segments": 8, "bank_rows": 40}
        },
        seed=0,
    )
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def _nothing_is_left(v2: RemoteEngine) -> Iterator[None]:
    """Every test leaves the worker as it found it: no request, no row under lease."""
    before = v2.do(v2_asks.is_settled)
    yield
    after = v2.do(v2_asks.is_settled)
    assert after["requests"] == after["bank_rows_used"] == 0
    assert after["free_table_entries"] == before["free_table_entries"] == 8 * 8 + 9 * (8 + 64)


def counted(ask: Ask, cached: int = 0) -> tuple[int, ...]:
    """What the receipt must say, from the plan, the prompt and the length of the answer alone."""
    assert ask.plan is not None
    # The last token of an answer is sampled, never computed.
    computed = len(ask.prompt) + ask.tokens - 1
    segments = ask.plan.segments(len(ask.prompt))
    return tuple(
        sum(max(0, min(s.stop, computed) - max(s.start, cached)) for s in segments if n in s.active)
        for n in range(len(ask.plan.vectors))
    )


def assert_same(answers: list[Answer], expected: list[Answer]) -> None:
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer.tokens == wanted.tokens
        assert furthest(answer.logprobs, wanted.logprobs) <= TOLERANCE


def test_it_is_that_runner(v2: RemoteEngine) -> None:
    assert v2.do(v2_asks.runner_of) == "vllm.v1.worker.cpu.model_runner"
    status = v2.status()
    assert status["sites"] == [*SITES, "resid_mid"]
    assert status["layers"] == list(range(tiny.LAYERS))


def test_gates_equal_the_reference(
    v2: RemoteEngine, vectors: Shelf, tiny_reference: ReferenceModel
) -> None:
    norms = dict.fromkeys((*SITES, "resid_mid"), vectors.norms["resid_post"])
    making = Making(Operations(vectors.library, norms, tiny.HIDDEN), tiny_reference)
    chance = random.Random(1)
    cases = [making.case(chance) for _ in range(8)]
    for case, (answer, notes) in zip(
        cases, v2.do(Engine.noted, *(case.ask for case in cases)), strict=True
    ):
        difference, near, _ = judge(case, answer, notes, tiny_reference)
        assert near <= TOLERANCE or difference <= TOLERANCE


def test_the_start_up_check_sees_what_is_lost(v2: RemoteEngine) -> None:
    assert v2.do(v2_asks.check_without, []) == "passed"
    assert v2.do(v2_asks.check_without, [HookPoint("resid_post", 1), HookPoint("attn_out", 2)]) == (
        "self-check: an addition did not reach the residual stream at attn_out.2, resid_post.1"
    )


@pytest.mark.parametrize(
    "setting",
    [
        Setting(2, start=0.4, cap=0.4, layers=(1,)),
        Setting(1, top_p=0.5, start=0.4, cap=0.4, steps=3, layers=(0, 1)),
    ],
)
def test_dynamic_composition(
    v2: RemoteEngine, tiny_reference: ReferenceModel, vectors: Shelf, setting: Setting
) -> None:
    """Prompts in chunks and preemptions, among ordinary requests."""
    before = v2.metric("vllm:num_preemptions")
    asked = [Ask(v2_asks.prompt(n, 20 + 9 * n), setting.plan(vectors), 14) for n in range(5)]
    # These start with two blocks each of the cache's sixteen, and end with four.
    others = [Ask(v2_asks.prompt(90 + n, 50), None, 60) for n in range(5)]
    found, companions = v2.do(v2_asks.noted, *others, *asked)
    assert companions == 0
    assert v2.metric("vllm:num_preemptions") > before
    for ask, (answer, notes) in zip(asked, found[len(others) :], strict=True):
        wanted = setting.reference(tiny_reference, vectors, ask.prompt, ask.tokens)
        assert max(distances(answer, notes, wanted)) <= TOLERANCE
        assert max(map(max, wanted.coefficients)) > 100 * TOLERANCE


def test_log_probabilities_equal_the_reference(
    v2: RemoteEngine, tiny_reference: ReferenceModel, vectors: Shelf
) -> None:
    cases = v2_asks.cases(vectors, 30)
    answers = v2.ask(*(case.ask for case in cases))
    worst, moved = 0.0, []
    for case, answer in zip(cases, answers, strict=True):
        length, tokens = len(case.ask.prompt), [*case.ask.prompt, *answer.tokens]
        found = [*answer.prompt_logprobs, *answer.logprobs]
        expected = tiny_reference.steered_logprobs(tokens, length, case.terms)
        assert len(found) == length - 1 + v2_asks.NEW_TOKENS
        worst = max(
            worst,
            *(
                abs(logprob - float(expected[position, token]))
                for position, likeliest in enumerate(found)
                for token, logprob in likeliest.items()
            ),
        )
        for position, token in enumerate(answer.tokens, start=length - 1):
            assert float(expected[position].max() - expected[position, token]) <= TOLERANCE
        plain = tiny_reference.steered_logprobs(tokens, length)
        moved.append(float((expected - plain)[:-1].abs().max()))
    print(f"\nV2 parity: worst difference {worst:.2e} over {len(cases)} cases")
    assert worst <= TOLERANCE
    # An engine that left additions out would be far off.
    assert sorted(moved)[len(moved) // 4] > 1000 * TOLERANCE


def test_reads_equal_the_reference(
    v2: RemoteEngine, tiny_reference: ReferenceModel, vectors: Shelf
) -> None:
    """In chunks and with preemptions; and reading changes nothing, for nobody."""
    asked = reads.cases(vectors, [v2_asks.prompt(n, 20 + 9 * n) for n in range(9)], 30)
    v2.forget()
    before = v2.metric("vllm:num_preemptions")
    found, _ = v2.do(v2_asks.noted, *(case.ask for case in asked))
    assert v2.metric("vllm:num_preemptions") > before
    worst = 0.0
    for case, (answer, (note,)) in zip(asked, found, strict=True):
        worst = max(worst, reads.check(tiny_reference, vectors, case, answer, note))
    print(f"\nV2 reads: worst difference {worst:.1e}")
    v2.forget()
    assert_same(v2.ask(*(case.without_reads for case in asked)), [one for one, _ in found])


@pytest.fixture(scope="module")
def operations(vectors: Shelf) -> Operations:
    norms = {**vectors.norms, "resid_mid": vectors.norms["resid_post"]}
    return Operations(vectors.library, norms, tiny.HIDDEN)


def reading_asks(operations: Operations) -> list[tuple[Ask, bool]]:
    """Each operation with each of its settings, alone and beside another; chunks of 48 tokens, and
    eight at a time in sixteen blocks of cache."""
    asks = []
    each = [(name, settings) for name in READING for settings in SETTINGS[name]]
    for n, (name, settings) in enumerate(each):
        length = 20 + 13 * (n % 5)
        rule = (length - 3, length + 1) if name == "replace" else ("all", "generation")[n % 2]
        site = (*SITES, "resid_mid")[n % 4]
        terms = tuple(HookPoint(site, layer) for layer in (0, 1 + n % 2))
        planned = operations.planned(name, n % 2, 0.7, terms, rule, settings)
        beside = operations.planned(("add", "project")[n % 2], 2, 0.2, terms, "all")
        for vectors, keep in (((planned,), False), ((planned, beside), True)):
            asks.append((Ask(v2_asks.prompt(n, length), Plan(vectors, keep_norm=keep), 24), keep))
    return asks


def test_operations_equal_the_reference(
    v2: RemoteEngine, tiny_reference: ReferenceModel, operations: Operations
) -> None:
    asks = reading_asks(operations)
    v2.forget()
    before = v2.metric("vllm:num_preemptions")
    answers = v2.ask(*(ask for ask, _ in asks))
    assert v2.metric("vllm:num_preemptions") > before
    worst = 0.0
    for (ask, keep), answer in zip(asks, answers, strict=True):
        assert ask.plan is not None
        tokens = [*ask.prompt, *answer.tokens]
        ones = [one for v in ask.plan.vectors for one in operations.interventions(v)]
        length = len(ask.prompt)
        expected = Intervened(tiny_reference).logprobs(tokens, length, ones, keep_norm=keep)
        plain = tiny_reference.steered_logprobs(tokens, length)
        assert float((expected - plain).abs().max()) > 100 * TOLERANCE
        for position, likeliest in enumerate(answer.logprobs, start=length - 1):
            for token, logprob in likeliest.items():
                worst = max(worst, abs(logprob - float(expected[position, token])))
    print(f"\nV2 operations: worst difference {worst:.2e} over {len(asks)} cases")
    assert worst <= TOLERANCE


def test_unsteered_neighbours_of_operations_are_bit_identical(
    v2: RemoteEngine, operations: Operations
) -> None:
    steered = [ask for ask, _ in reading_asks(operations)][:4]

    def batch(plans: bool) -> list[Answer]:
        v2.forget()
        asks = [replace(ask, tokens=6, plan=ask.plan if plans else None) for ask in steered]
        plain = [Ask(v2_asks.prompt(60 + n, 9 + 17 * n), tokens=6) for n in range(4)]
        return v2.ask(*(one for pair in zip(asks, plain, strict=True) for one in pair))

    without, among = batch(False), batch(True)
    assert among[1::2] == without[1::2]
    assert all(a != b for a, b in zip(among[::2], without[::2], strict=True))


@pytest.mark.parametrize("positions", ["all", "generation"])
def test_unsteered_neighbours_are_bit_identical(
    v2: RemoteEngine, vectors: Shelf, positions: str
) -> None:
    lengths = (3, 40, 17, 60, 1, 33)
    plans = {
        n: Plan(
            (
                vectors.planned(1, 0.4 + n, (0, 2), positions, SITES[n % 3]),
                vectors.planned(2, -0.7, (1, 2), "all"),
            )
        )
        for n in (1, 3, 4)
    }

    def batch(plans: dict[int, Plan]) -> list[Answer]:
        v2.forget()
        return v2.ask(
            *(
                Ask(v2_asks.prompt(n, length), plans.get(n), 6, prompt_logprobs=True)
                for n, length in enumerate(lengths)
            )
        )

    among_unsteered, among_steered = batch({}), batch(plans)
    for n in range(len(lengths)):
        if n in plans:
            assert among_steered[n] != among_unsteered[n]
        else:
            assert among_steered[n] == among_unsteered[n]


def test_what_the_prefix_cache_gives_back_was_steered_the_same(
    v2: RemoteEngine, vectors: Shelf
) -> None:
    prompt = v2_asks.prompt(7, 90)
    plans = [
        None,
        vectors.plan(1, 0.5, (0, 2)),
        vectors.plan(2, 0.4, (1,), "all", "attn_out"),
        vectors.plan(1, -0.4, (0, 1), (40, 60), "mlp_out"),
    ]
    asks = [Ask(prompt, plan, 8) for plan in plans]
    fresh = []
    for ask in asks:
        v2.forget()
        fresh += v2.ask(ask)
    v2.forget()
    for ask, expected in zip(asks, fresh, strict=True):
        v2.ask(ask)
        (again,) = v2.ask(ask)
        assert again.cached == 64
        assert_same([again], [expected])
    # A later turn, which begins with the third block's end, replays the steered answer: unsteered,
    # it may have the blocks that nobody steered; steered, those whose tokens it steers the same.
    for ask, answer, shared, own in zip(
        asks[1:], fresh[1:], (64, 0, 32), (64, 96, 96), strict=True
    ):
        turn = Ask((*prompt, *answer.tokens[:-1]), None, 2)
        v2.forget()
        (expected,) = v2.ask(turn)
        v2.forget()
        v2.ask(ask)
        (found,) = v2.ask(turn)
        assert found.cached == shared
        assert_same([found], [expected])
        v2.forget()
        v2.ask(ask)
        assert v2.ask(replace(turn, plan=ask.plan))[0].cached == own


def test_preempted_and_resumed(v2: RemoteEngine, vectors: Shelf) -> None:
    """Eight requests of two blocks that grow to three, in sixteen blocks."""
    plans = [
        vectors.plan(1, 0.5, (0, 2)),
        None,
        vectors.plan(2, 0.4, (1,), "all", "attn_out"),
        vectors.plan(1, -0.4, (0, 1), "prompt"),
        Plan(
            (
                vectors.planned(2, 0.6, (1,), (30, 47)),
                vectors.planned(3, 0.3, (1, 2), "after_prompt"),
                vectors.planned(1, 0.2, (1,), (-3, 10_000), "mlp_out"),
            )
        ),
        None,
        vectors.plan(3, 0.5, (2,), "after_prompt", "mlp_out"),
        vectors.plan(2, -0.5, (0,), "after_prompt"),
    ]
    asks = [Ask(v2_asks.prompt(20 + n, 48 + n), plan, 24) for n, plan in enumerate(plans)]
    v2.forget()
    before = v2.metric("vllm:num_preemptions")
    expected = [*v2.ask(*asks[:4]), *v2.ask(*asks[4:])]
    assert v2.metric("vllm:num_preemptions") == before
    v2.forget()
    answers, notes = v2.do(v2_asks.counted_ask, *asks)
    assert v2.metric("vllm:num_preemptions") >= before + 2
    assert_same(answers, expected)
    assert notes == [[counted(ask)] if ask.plan else [] for ask in asks]


def test_requests_that_come_and_go(v2: RemoteEngine, vectors: Shelf) -> None:
    """More than run at once, of all lengths: places in the batch are taken over again and again."""
    plan = vectors.plan(3, 0.8, (0, 2), "all")
    asks = [
        Ask(v2_asks.prompt(n, 5 + 7 * (n % 5)), plan if n % 2 else None, 2 + n % 6)
        for n in range(16)
    ]
    v2.forget()
    expected = [answer for ask in asks for answer in v2.ask(ask)]
    v2.forget()
    answers, notes = v2.do(v2_asks.counted_ask, *asks)
    assert_same(answers, expected)
    assert notes == [[counted(ask)] if ask.plan else [] for ask in asks]


def test_steered_tokens_from_the_cache_are_not_counted_again(
    v2: RemoteEngine, vectors: Shelf
) -> None:
    ask = Ask(v2_asks.prompt(3, 80), vectors.plan(1, 0.5, (1,), "all"), 5)
    v2.forget()
    assert v2.receipts(ask) == [[counted(ask)]]
    assert v2.receipts(ask) == [[counted(ask, cached=64)]]


def test_a_vector_that_vanishes_ends_its_request_and_no_other(
    v2: RemoteEngine, vectors: Shelf
) -> None:
    plan = vectors.plan(1, 0.5, (1,), "all")
    asks = [
        Ask(v2_asks.prompt(40 + n, 30), plan if n == 1 else None, 1 if n == 2 else 6)
        for n in range(4)
    ]
    v2.forget()
    expected = v2.ask(*asks)
    doomed = replace(asks[2], plan=vectors.plan(50, 0.5, (2,)), tokens=6)
    v2.forget()
    found = v2.do(v2_asks.ask_without, [*asks[:2], doomed, asks[3]], vectors.path(50))
    assert (found[2].finish_reason, found[2].tokens) == ("error", ())
    assert [found[n] for n in (0, 1, 3)] == [expected[n] for n in (0, 1, 3)]
    assert v2.ask(doomed)[0].finish_reason == "length"


def test_plans_are_checked_whoever_wrote_them(v2: RemoteEngine, vectors: Shelf) -> None:
    with pytest.raises(RemoteFailed, match="layer 3 does not exist"):
        v2.ask(Ask((1, 2), replace_layers(vectors.plan(1, 0.5, (1,)), tiny.LAYERS)))


def replace_layers(plan: Plan, layer: int) -> Plan:
    (vector,) = plan.vectors
    return Plan((replace(vector, terms=(HookPoint("resid_post", layer),)),))


def test_calibration_hears_every_token_but_the_first(
    v2: RemoteEngine, tiny_reference: ReferenceModel
) -> None:
    prompt = v2_asks.prompt(5, 101)
    v2.forget()
    heard = v2.do(v2_asks.norms_heard, Ask(prompt, tokens=1))
    norms = tiny_reference.streams(prompt).norm(dim=-1)
    expected = {f"resid_post.{n}": float(found[1:].median()) for n, found in enumerate(norms)}
    with_first = {f"resid_post.{n}": float(found.median()) for n, found in enumerate(norms)}
    assert len(heard) == 3 * len(expected)
    behind_blocks = {place: heard[place] for place in expected}
    assert behind_blocks == pytest.approx(expected, rel=1e-5)
    assert behind_blocks != pytest.approx(with_first, rel=1e-5)


def test_the_lens(v2: RemoteEngine, tiny_model: Path) -> None:
    directions = torch.randn(20, tiny.HIDDEN, generator=torch.Generator().manual_seed(9))
    (found,) = v2.do(exams_special.lens, [], directions.tolist(), 9)
    for direction, tokens in zip(directions, found["tokens"], strict=True):
        assert_tokens(tiny_model, direction, tokens["top"], tokens["bottom"])


def test_what_overflows_ends_and_leaves_nothing_to_others(v2: RemoteEngine, vectors: Shelf) -> None:
    """The cache has room for a part of them at a time, so blocks change hands."""
    v = torch.full((tiny.HIDDEN,), 3e38)
    huge = SteeringVector({HookPoint("resid_post", layer): v for layer in range(tiny.LAYERS)})
    vectors.library.add(write_vector(huge), "huge")
    terms = (HookPoint("resid_post", 0), HookPoint("resid_post", 1))
    attacks = [
        Ask(v2_asks.prompt(n, 40), Plan((PlannedVector(huge.digest, 1.0, terms, rule),)), 3)
        for n, rule in enumerate(("all", "generation", "after_prompt", "prompt"))
    ]
    victims = [Ask(v2_asks.prompt(9 + n, length), None, 3) for n, length in enumerate((3, 70, 33))]
    assert [a.finish_reason for a in v2.ask(*attacks)] == ["error"] * 4  # By the bound.
    before, beside, after = v2.do(v2_asks.overflow, attacks, victims)
    assert [a.finish_reason for a in beside[:4]] == ["error"] * 4
    assert_same(beside[4:], before)
    assert_same(after, before)
