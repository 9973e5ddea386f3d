"""Dynamic Activation Composition in the engine, against k + 2 forwards of the whole text a token.

The full product of settings is in tests/matrix/test_dynamic.py.
"""

import random
from collections import Counter
from dataclasses import replace

import pytest
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.inputs import TokensPrompt
from vllm.sampling_params import StructuredOutputsParams

from steersman.steering.plan import PLAN_KEY, RECEIPTS, Choice, Dynamic, Plan, PlanInvalid
from steersman.steering.plan.dynamic import STREAM_KEY, LastToken
from steersman.steering.worker.composition import Composer, Guess
from tests.engine.conftest import Shelf
from tests.reference.reference import ReferenceModel
from tests.support.engine.dynamic import Setting, distances
from tests.support.engine.engine import Answer, Ask, Engine, answer, furthest, parameters

CLOSE = 1e-4
NOTHING = (0,) * 8

SETTINGS = [
    Setting(1, mean=True, top_p=0.95, start=0.6, cap=0.6),
    Setting(2, mean=False, top_p=0.5),
    Setting(3, mean=False, top_p=0.95, start=0.15, cap=0.15),
    Setting(2, mean=False, steps=4),
    Setting(1, mean=True, top_p=0.5, steps=3, hold=True),
    Setting(4, mean=False, start=0.1, cap=0.2),
]


def prompts(text_ids: list[int], number: int) -> list[tuple[int, ...]]:
    """Of one to 70 tokens: within a block of the cache and over several."""
    lengths = (1, 9, 31, 32, 33, 40, 65, 70)
    return [tuple(text_ids[7 * n : 7 * n + lengths[n % len(lengths)]]) for n in range(number)]


def test_equals_the_reference(
    engine: Engine, reference: ReferenceModel, shelf: Shelf, text_ids: list[int]
) -> None:
    """All settings in one batch, among requests that are steered otherwise or not at all."""
    tokens = 8
    asked = [Ask(p, s.plan(shelf), tokens) for p, s in zip(prompts(text_ids, 6), SETTINGS)]  # noqa: B905
    others = [Ask(asked[0].prompt, None, 12), Ask(asked[3].prompt, shelf.plan(1, 0.3, (8,)), 12)]
    engine.forget()
    alone = [engine.ask(other)[0] for other in others]
    engine.forget()
    *found, (plain, _), (steered, _) = engine.noted(*asked, *others)
    for ask, setting, (composed, notes) in zip(asked, SETTINGS, found, strict=True):
        wanted = setting.reference(reference, shelf, ask.prompt, tokens)
        assert max(distances(composed, notes, wanted)) <= CLOSE
        # Something was at stake: a coefficient that was always 0, or always its cap, is no test.
        assert max(map(max, wanted.coefficients)) > 0
        reach = min(tokens, setting.steps) if setting.steps > 1 and not setting.hold else tokens
        assert notes[0].steered_tokens == (reach,) * setting.properties
    for said, before in zip((plain, steered), alone, strict=True):
        assert said.tokens == before.tokens
        assert furthest(said.logprobs, before.logprobs) <= CLOSE
    assert engine.left() == NOTHING


@pytest.mark.parametrize("kind", ["right", "wrong", "random"])
def test_whatever_the_draft(
    engine: Engine,
    shelf: Shelf,
    text_ids: list[int],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Tokens, coefficients and divergences are the same, and what was computed for nothing leaves
    nothing."""
    tokens = 12
    asks = [Ask(p, s.plan(shelf), tokens) for p, s in zip(prompts(text_ids, 6), SETTINGS)]  # noqa: B905
    engine.forget()
    wanted = traced(engine, asks)
    texts = {ask.plan: said.tokens for ask, (said, _) in zip(asks, wanted, strict=True)}
    starts = {ask.plan: len(ask.prompt) for ask in asks}
    chance, made = random.Random(1), Counter[bool]()

    def forced(
        self: Composer, answer: str, plan: Plan, last: LastToken, choice: Choice, guess: Guess
    ) -> int:
        bare = replace(plan, receipt="")
        truth = texts[bare][last.position + 1 - starts[bare]]
        right = kind == "right" or (kind == "random" and chance.random() < 0.5)
        made[right] += 1
        return truth if right else (truth + 1) % 1000

    monkeypatch.setattr(Composer, "draft", forced)
    engine.forget()
    found = traced(engine, asks)
    for (said, trace), (other, expected) in zip(found, wanted, strict=True):
        assert said.tokens == other.tokens
        assert trace == pytest.approx(expected, abs=CLOSE)
    # Neither an answer's first token nor its last is drafted.
    assert made.total() == len(asks) * (tokens - 2)
    assert set(made) == {"right": {True}, "wrong": {False}, "random": {True, False}}[kind]
    assert engine.left() == NOTHING


def test_what_cannot_move_the_answer(engine: Engine, shelf: Shelf, text_ids: list[int]) -> None:
    """A cap of 0, a start of 0 and a nucleus of one token for all: the unsteered answer."""
    prompt = tuple(text_ids[:20])
    (plain,) = engine.ask(Ask(prompt, None, 10))
    for setting in (Setting(cap=0.0), Setting(start=0.0), Setting(start=1e-6, top_p=1e-9)):
        ((answer, (note,)),) = engine.noted(Ask(prompt, setting.plan(shelf), 10))
        assert answer.tokens == plain.tokens
        assert all(set(choice.coefficients) == {0.0} for choice in note.choices)
        assert len(note.choices) == 10
        if setting.cap == 0:
            assert max(note.choices[0].divergences) > 0
        else:
            assert all(set(choice.divergences) == {0.0} for choice in note.choices)


def test_two_copies_of_one_property(engine: Engine, shelf: Shelf, text_ids: list[int]) -> None:
    vector = Setting(1).plan(shelf).vectors[0]
    plan = Plan((vector, vector), "", Dynamic(0.25, 0.95, False))
    ((_, (note,)),) = engine.noted(Ask(tuple(text_ids[:20]), plan, 10))
    for choice in note.choices:
        assert choice.coefficients[0] == choice.coefficients[1]
    assert len({choice.coefficients for choice in note.choices}) > 3


def test_a_zero_vector_is_no_property(engine: Engine, shelf: Shelf, text_ids: list[int]) -> None:
    zero = shelf.zero()
    prompt = tuple(text_ids[:20])
    (plain,) = engine.ask(Ask(prompt, None, 10))
    vector = replace(Setting(1).plan(shelf).vectors[0], digest=zero.digest)
    plan = Plan((vector,), "", Dynamic(2.0, 0.95, True))
    ((answer, (note,)),) = engine.noted(Ask(prompt, plan, 10))
    assert answer.tokens == plain.tokens
    assert {c.coefficients + c.divergences for c in note.choices} == {(0.0, 0.0)}


def test_its_blocks_are_nobody_elses(engine: Engine, shelf: Shelf, text_ids: list[int]) -> None:
    """The prompt's blocks are everybody's, those of the answer its own: a later turn over the same
    text, unsteered or dynamic again, finds no block that is not as it would compute it."""
    engine.forget()
    prompt = tuple(text_ids[:70])
    ask = Ask(prompt, Setting(1).plan(shelf), 80)
    (first,) = engine.ask(ask)
    replay = Ask(prompt + first.tokens, None, 4)
    (later,) = engine.ask(replay)
    engine.forget()
    (fresh,) = engine.ask(replay)
    assert furthest(later.logprobs, fresh.logprobs) <= CLOSE
    (again,) = engine.ask(ask)
    assert again.tokens == first.tokens
    # The unsteered stream went over the same text: its blocks are right for the unsteered turn.
    assert later.cached >= 128
    assert fresh.cached == 0


@pytest.fixture(scope="module")
def crowd(shelf: Shelf, text_ids: list[int]) -> list[Ask]:
    """Requests that each need four or five of the cramped engine's eight blocks when they end."""
    settings = [Setting(1), Setting(2, top_p=0.5), Setting(1, steps=4), Setting(2, mean=True)]
    asks = [
        Ask(tuple(text_ids[5 * n : 5 * n + 20 + n]), setting.plan(shelf), 16)
        for n, setting in enumerate(settings * 2)
    ]
    return [*asks, *(Ask(ask.prompt, None, 30) for ask in asks[:4])]


@pytest.fixture(scope="module")
def unhurried(engine: Engine, crowd: list[Ask]) -> list[tuple[Answer, list[float]]]:
    return traced(engine, crowd)


def traced(engine: Engine, asks: list[Ask]) -> list[tuple[Answer, list[float]]]:
    """Answers, and all coefficients and divergences of each."""
    return [
        (answer, [x for note in notes for c in note.choices for x in (*c[0], *c[1])])
        for answer, notes in engine.noted(*asks)
    ]


def test_preempted_and_resumed_in_chunks(
    cramped: Engine, crowd: list[Ask], unhurried: list[tuple[Answer, list[float]]]
) -> None:
    """Prompts in chunks, more streams than fit, one let in after the other."""
    before = cramped.metric("vllm:num_preemptions")
    found = traced(cramped, crowd)
    assert cramped.metric("vllm:num_preemptions") > before
    for (said, trace), (wanted, expected) in zip(found, unhurried, strict=True):
        assert said.tokens == wanted.tokens
        assert trace == pytest.approx(expected, abs=CLOSE)
    assert cramped.left() == NOTHING


def test_two_hundred_with_random_ends_leave_nothing(
    cramped: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    """Random lengths, settings and cancels, in an engine where few fit at once."""
    chance = random.Random(5)
    llm = cramped.llm.llm_engine
    waiting, ended, streams, preempted = [], 0, 0, cramped.metric("vllm:num_preemptions")
    scheduler = llm.engine_core.engine_core.scheduler  # type: ignore[attr-defined]
    for n in range(200):
        setting = Setting(chance.randint(1, 3), steps=chance.choice((1, 1, 4)))
        # Some come to a second block while they run, where the cache has room for that.
        tokens, start = chance.randint(1, 8), chance.randrange(40)
        length = chance.randint(1, 12) if chance.random() < 0.5 else chance.randint(25, 31)
        if setting.properties == 3:
            length = min(length, 32 - tokens)
        prompt = tuple(text_ids[start : start + length])
        params = parameters(Ask(prompt, setting.plan(shelf), tokens))
        waiting.append((f"d{n}", prompt, params))
    running: list[str] = []
    while waiting or llm.has_unfinished_requests():
        while waiting and len(running) < 6:
            name, prompt, params = waiting.pop()
            llm.add_request(name, TokensPrompt(prompt_token_ids=list(prompt)), params)
            running.append(name)
        for output in llm.step():
            if output.finished:
                ended += 1
                running.remove(output.request_id)
        streams = max(streams, len(scheduler.steering_companions))
        if running and chance.random() < 0.06:
            llm.abort_request([running.pop(chance.randrange(len(running)))])
    assert ended > 80
    assert 200 - ended > 20
    assert streams > 8
    assert cramped.metric("vllm:num_preemptions") > preempted
    assert cramped.left() == NOTHING


def sample(engine: Engine, ask: Ask, **options: object) -> list[object]:
    """Completions of one request that is sampled as `options` say."""
    params = SamplingParams(**{"max_tokens": ask.tokens, **options})  # type: ignore[arg-type]
    if ask.plan is not None:
        params.extra_args = {PLAN_KEY: ask.plan.to_json()}
    prompt = TokensPrompt(prompt_token_ids=list(ask.prompt))
    (output,) = engine.llm.generate([prompt], params, use_tqdm=False)
    return list(output.outputs)


def test_sampling_of_every_kind(engine: Engine, shelf: Shelf, text_ids: list[int]) -> None:
    ask = Ask(tuple(text_ids[:30]), Setting(2).plan(shelf), 16)

    def tokens(**options: object) -> list[tuple[int, ...]]:
        return [tuple(c.token_ids) for c in sample(engine, ask, **options)]  # type: ignore[attr-defined]

    assert tokens(temperature=1.0, seed=7) == tokens(temperature=1.0, seed=7)
    assert tokens(temperature=1.0, seed=7) != tokens(temperature=1.0, seed=8)
    one, two = tokens(temperature=1.0, seed=3, n=2)
    assert one != two
    plain, penalised = tokens(temperature=0), tokens(temperature=0, repetition_penalty=3.0)
    assert plain != penalised
    assert len(set(penalised[0])) > len(set(plain[0])) - 1
    choice = StructuredOutputsParams(choice=["yes", "no"])
    (said,) = sample(engine, ask, temperature=0, structured_outputs=choice)
    assert said.text in ("yes", "no")  # type: ignore[attr-defined]
    (whole,) = sample(engine, ask, temperature=0)
    stop = whole.text[4:9]  # type: ignore[attr-defined]
    (short,) = sample(engine, ask, temperature=0, stop=[stop])
    assert (short.finish_reason, short.stop_reason) == ("stop", stop)  # type: ignore[attr-defined]
    assert whole.text.startswith(short.text)  # type: ignore[attr-defined]
    (logged,) = sample(engine, ask, temperature=0, logprobs=3, prompt_logprobs=2)
    assert len(logged.logprobs) == ask.tokens  # type: ignore[attr-defined]
    assert engine.left() == NOTHING


def test_up_to_the_models_length(engine: Engine, shelf: Shelf, text_ids: list[int]) -> None:
    prompt = tuple((text_ids * 4)[:1015])
    (answer,) = engine.ask(Ask(prompt, Setting(1).plan(shelf), 9))
    assert (len(answer.tokens), answer.finish_reason) == (9, "length")
    assert engine.left() == NOTHING


def test_a_property_that_cannot_be_loaded_ends_the_answer(
    engine: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    """And nobody else's, though its other stream has computed blocks that others share."""
    plan = Setting(1).plan(shelf)
    lost = replace(plan.vectors[0], digest=shelf.vector(77).digest)
    asks = {
        "lost": Ask(tuple(text_ids[:40]), replace(plan, vectors=(*plan.vectors, lost)), 6),
        "spared": Ask(tuple(text_ids[30:70]), plan, 6),
        "plain": Ask(tuple(text_ids[:40]), None, 6),
    }
    engine.forget()
    wanted = {name: engine.ask(ask)[0] for name, ask in asks.items() if name != "lost"}
    engine.forget()
    llm = engine.llm.llm_engine
    ended = {}
    with shelf.vanishing(77) as vanish:
        for name, ask in asks.items():
            prompt = TokensPrompt(prompt_token_ids=list(ask.prompt))
            llm.add_request(name, prompt, parameters(ask))
        vanish()
        while llm.has_unfinished_requests():
            ended.update({o.request_id: answer(o) for o in llm.step() if o.finished})
    assert (ended["lost"].finish_reason, ended["lost"].tokens) == ("error", ())
    for name, before in wanted.items():
        assert ended[name].tokens == before.tokens
        assert furthest(ended[name].logprobs, before.logprobs) <= CLOSE
    assert engine.left() == NOTHING


def test_what_could_never_run_is_refused(
    cramped: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    """Three streams in eight blocks of 32 tokens: two blocks each."""
    plan = Setting(1).plan(shelf)
    (fits,) = cramped.ask(Ask(tuple(text_ids[:20]), plan, 44))
    assert len(fits.tokens) == 44
    with pytest.raises(VLLMValidationError, match="room for 64 tokens each") as refused:
        cramped.ask(Ask(tuple(text_ids[:20]), plan, 45))
    assert isinstance(refused.value.__cause__, PlanInvalid)


def test_nobody_may_name_a_stream(engine: Engine, text_ids: list[int]) -> None:
    params = SamplingParams(max_tokens=1, extra_args={STREAM_KEY: ["0", 1]})
    with pytest.raises(VLLMValidationError, match="is reserved"):
        engine.llm.generate([TokensPrompt(prompt_token_ids=text_ids[:5])], params, use_tqdm=False)


def test_receipts_are_closed() -> None:
    assert not any(RECEIPTS.is_open(f"r{n}") for n in range(20))
