"""Every setting of dynamic composition, on both model runners and whatever its companions draft,
against k + 2 forwards of the whole text a token.

All of them on a tiny model, where a forward takes milliseconds, in one batch; one prompt each on
the demo model. And every way of sampling, beside requests of every other kind. Part of
`make matrix`.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from vllm.sampling_params import StructuredOutputsParams

from steersman.steering.plan import Plan
from tests.engine.conftest import Shelf
from tests.matrix.test_lora import RANK, SLOTS, make_adapter
from tests.reference.dynamic import Composed, likeliest
from tests.reference.reference import ReferenceModel
from tests.support.engine import drafts, turmoil
from tests.support.engine.drafts import Answered, Job
from tests.support.engine.dynamic import Setting, distances
from tests.support.engine.engine import Engine, furthest
from tests.support.engine.remote import RemoteEngine
from tests.support.engine.v2_asks import prompt as random_prompt
from tests.support.matrix import tiny
from tests.support.matrix.start import base_environment
from tests.support.standin import v2_environment

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(3000)]

CLOSE = 1e-4
NOTHING = (0,) * 8
TOKENS = {"v1": 24, "v2": 10}
"""Of each answer. A step of V2 takes a hundred times as long: its kernels are interpreted."""
PROMPTS = {"v1": 3, "v2": 1}
"""For each setting."""
PRODUCT = [
    Setting(k, mean=mean, top_p=top_p, start=0.4, cap=0.4, steps=steps, layers=(1,))
    for k, mean, top_p, steps in itertools.product((1, 2, 3), (True, False), (0.5, 0.95), (1, 6))
]
SETTINGS = [
    *PRODUCT,
    Setting(2, start=0.4, cap=0.4, every=3, layers=(1,)),
    Setting(1, start=0.4, cap=0.4, every=5, steps=6, layers=(1,)),
    Setting(3, starts=(0.2, 0.4, 0.3), top_ps=(0.5, 0.95, 1.0), caps=(0.4, 0.1, 2), layers=(1,)),
    Setting(2, starts=(0.5, 0.1), top_ps=(0.9, 0.3), caps=(0.3, 0.3), every=2, layers=(1,)),
    Setting(8, start=0.15, cap=0.1, layers=(1,)),
]


class Asked(NamedTuple):
    """A job, and what it must come to."""

    job: Job
    setting: Setting
    wanted: Composed


class Bench(NamedTuple):
    """One engine and what it is asked."""

    engine: RemoteEngine
    asked: list[Asked]


@pytest.fixture(scope="module")
def worst() -> Iterator[list[float]]:
    seen = [0.0]
    yield seen
    print(f"\ndynamic parity: worst difference of a coefficient or divergence {max(seen):.1e}")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny_shelf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    norms = tiny.stream_norms(tiny_model, random_prompt(0, 100))
    return Shelf(tmp_path_factory.mktemp("tiny-library"), norms, tiny.HIDDEN)


@pytest.fixture(scope="module")
def tiny_reference(tiny_model: Path) -> ReferenceModel:
    return ReferenceModel(tiny_model)


def start(runner: str, model: Path, shelf: Shelf, **options: object) -> RemoteEngine:
    return RemoteEngine(
        base_environment() | (v2_environment() if runner == "v2" else {}),
        **{
            "model": str(model),
            "dtype": "float32",
            "enforce_eager": True,
            "disable_log_stats": False,
            "block_size": 32,
            "max_model_len": 256,
            "max_num_batched_tokens": 2048,
            "max_num_seqs": 64,
            "kv_cache_memory_bytes": 2**27,
            "additional_config": {"steersman": {"library": str(shelf.library.root)}},
            "seed": 0,
            **options,
        },
    )


@pytest.fixture(scope="module", params=["v1", "v2"])
def bench(
    request: pytest.FixtureRequest,
    tiny_model: Path,
    tiny_shelf: Shelf,
    tiny_reference: ReferenceModel,
) -> Iterator[Bench]:
    runner, asked = request.param, []
    for n, setting in itertools.product(range(PROMPTS[runner]), SETTINGS):
        prompt = random_prompt(n, 1 + 31 * n % 70)
        wanted = setting.reference(tiny_reference, tiny_shelf, prompt, TOKENS[runner])
        asked.append(Asked(Job(prompt, setting.plan(tiny_shelf), TOKENS[runner]), setting, wanted))
    engine = start(runner, tiny_model, tiny_shelf)
    yield Bench(engine, asked)
    engine.close()


def compare(found: Answered, wanted: Composed, what: object) -> float:
    """The largest difference of a coefficient or divergence; the tokens must be equal."""
    assert list(found.answer.tokens) == wanted.tokens, what
    apart = max(distances(found.answer, found.notes, wanted))
    # Means over large nuclei are small themselves.
    assert apart <= 0.01 * max(map(max, wanted.divergences)), what
    assert apart <= CLOSE, what
    return apart


@pytest.mark.parametrize("kind", drafts.KINDS)
def test_on_a_tiny_model(bench: Bench, kind: str, worst: list[float]) -> None:
    engine, asked = bench
    jobs, truth = [one.job for one in asked], [one.wanted.tokens for one in asked]
    run = engine.do(drafts.ask, jobs, kind, truth)
    for one, found in zip(asked, run.answered, strict=True):
        worst.append(compare(found, one.wanted, one.setting))
    assert run.left == NOTHING
    assert run.drafted > 5 * len(asked)
    match kind:
        case "own":
            assert 0.5 * run.drafted < run.kept < run.drafted
        case "right":
            assert run.kept == run.drafted
        case "wrong":
            assert run.kept == 0
        case _:
            assert 0 < run.kept < run.drafted


# Triton's interpreter cannot run vLLM's kernel of top-k and top-p.
NOISY = {"v1": ({}, {"top_k": 50}, {"top_p": 0.8}), "v2": ({}, {"min_p": 0.01})}


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_a_draft_of_a_sampled_answer_has_its_noise(
    runner: str, tiny_model: Path, tiny_shelf: Shelf
) -> None:
    """Most drafts are kept, where the likeliest of a flat distribution would seldom be; and no
    draft changes what is drawn."""
    engine = start(runner, tiny_model, tiny_shelf)
    jobs = [
        Job(random_prompt(n, 12), setting.plan(tiny_shelf), TOKENS[runner], options)
        for n, (setting, more) in enumerate(itertools.product(SETTINGS[:4], NOISY[runner]))
        if (options := {"temperature": 0.8, "seed": n} | more)
    ]
    own = engine.do(drafts.ask, jobs)
    truth = [list(one.answer.tokens) for one in own.answered]
    assert own.kept > 0.6 * own.drafted > 0
    assert len({tuple(tokens) for tokens in truth}) == len(jobs)
    wrong = engine.do(drafts.ask, jobs, "wrong", truth)
    assert wrong.kept == 0
    assert [list(one.answer.tokens) for one in wrong.answered] == truth
    engine.close()


@pytest.mark.parametrize("kind", ["own", "wrong"])
def test_on_the_demo_model(
    engine: Engine,
    reference: ReferenceModel,
    shelf: Shelf,
    text_ids: list[int],
    kind: str,
    demo: list[Asked],
    worst: list[float],
) -> None:
    jobs, truth = [one.job for one in demo], [one.wanted.tokens for one in demo]
    run = drafts.ask(engine, jobs, kind, truth)
    for one, found in zip(demo, run.answered, strict=True):
        worst.append(compare(found, one.wanted, one.setting))
    assert run.left == NOTHING
    assert (run.kept == 0) == (kind == "wrong")


@pytest.fixture(scope="module")
def demo(reference: ReferenceModel, shelf: Shelf, text_ids: list[int]) -> list[Asked]:
    asked = []
    for n, one in enumerate(SETTINGS):
        setting = Setting(**{**vars(one), "layers": (10, 14)})
        prompt = tuple(text_ids[3 * n : 3 * n + 12])
        wanted = setting.reference(reference, shelf, prompt, TOKENS["v1"])
        asked.append(Asked(Job(prompt, setting.plan(shelf), TOKENS["v1"]), setting, wanted))
    return asked


# Every way of sampling, among requests of every other kind


LETTERS = "abcd"
PENALTIES = {"presence_penalty": 1.5, "frequency_penalty": 0.7}
SAMPLED = {"temperature": 1.0, "seed": 11}


def penalised(logprobs: torch.Tensor, answer: Sequence[int]) -> int:
    counts = torch.bincount(torch.tensor(answer, dtype=torch.long), minlength=len(logprobs))
    said = PENALTIES["presence_penalty"] * (counts > 0) + PENALTIES["frequency_penalty"] * counts
    return int((logprobs - said).argmax())


def biased(bias: dict[int, float]) -> Callable[[torch.Tensor, Sequence[int]], int]:
    """Takes the likeliest token when so much has been added to some."""

    def pick(logprobs: torch.Tensor, _answer: Sequence[int]) -> int:
        moved = logprobs.clone()
        for token, much in bias.items():
            moved[token] += much
        return int(moved.argmax())

    return pick


class Crowd(NamedTuple):
    """An engine for adapters, and requests whose answers the reference knows or can follow."""

    engine: RemoteEngine
    composed: list[Asked]
    """Those that are greedy, in some way."""
    sampled: list[tuple[Job, Setting]]
    others: list[Job]
    """Not dynamic."""


@pytest.fixture(scope="module", params=["v1"])
def crowd(
    request: pytest.FixtureRequest,
    tiny_model: Path,
    tiny_shelf: Shelf,
    tiny_reference: ReferenceModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Crowd]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in LETTERS]
    folder = tmp_path_factory.mktemp("adapter")
    make_adapter(tiny_model, folder / "adapter", folder / "merged")
    adapter, merged = str(folder / "adapter"), ReferenceModel(folder / "merged")
    runner = request.param
    two = Setting(2, start=0.4, cap=0.4, layers=(1,))
    three = Setting(3, mean=True, starts=(0.2, 0.4, 0.3), caps=(0.4, 0.1, 2), layers=(0, 1))
    held = Setting(1, start=0.4, cap=0.4, every=3, layers=(1,))
    composed, sampled = [], []
    for n, setting in enumerate((two, three, held)):
        prompt, plan = random_prompt(50 + n, 20 + 9 * n), setting.plan(tiny_shelf)
        plain = setting.reference(tiny_reference, tiny_shelf, prompt, 12)
        bias = {plain.tokens[0]: -50.0, plain.tokens[3]: 2.0, 7: 1.5}
        allowed = dict.fromkeys(set(range(tiny.VOCAB)) - set(letters), -torch.inf)
        grammar = {"structured_outputs": StructuredOutputsParams(regex=f"[{LETTERS}]{{12}}")}
        for options, pick in (
            (PENALTIES, penalised),
            ({"logit_bias": bias}, biased(bias)),
            (grammar, biased(allowed)),
            ({"min_p": 0.2}, likeliest),
        ):
            wanted = setting.reference(tiny_reference, tiny_shelf, prompt, 12, pick)
            composed.append(Asked(Job(prompt, plan, 12, options), setting, wanted))
        # Said to an end by a token of one byte, as the front end finds it.
        known = [t for t in plain.tokens if t < 95]
        stop = {"stop": [tokenizer.decode([known[0]])]} if known else {}
        end = plain.tokens.index(known[0]) + 1 if known else 12
        short = Composed(plain.tokens[:end], plain.coefficients[:end], plain.divergences[:end])
        composed.append(Asked(Job(prompt, plan, 12, stop), setting, short))
        wanted = setting.reference(merged, tiny_shelf, prompt, 12)
        composed.append(Asked(Job(prompt, plan, 12, {}, adapter), setting, wanted))
        for more in (
            {"min_p": 0.1},
            {"top_k": 20, "top_p": 0.9},
            PENALTIES | {"repetition_penalty": 1.3, "logit_bias": bias},
        ):
            sampled.append((Job(prompt, plan, 12, SAMPLED | more), setting))
    static: list[Plan | None] = [None, tiny_shelf.plan(5, 0.5, (0, 2), "all")]
    others = [
        Job(random_prompt(70 + n, 15 + n), plan, 24, {}, lora)
        for n, (plan, lora) in enumerate(itertools.product(static, (None, adapter)))
    ]
    engine = start(
        runner, tiny_model, tiny_shelf, enable_lora=True, max_lora_rank=RANK, max_loras=SLOTS,
    )  # fmt: skip
    yield Crowd(engine, composed, sampled, others)
    engine.close()


def test_however_it_is_sampled(
    crowd: Crowd, tiny_reference: ReferenceModel, tiny_shelf: Shelf, worst: list[float]
) -> None:
    """Among requests with adapters, steered and plain ones: tokens, coefficients and divergences
    are the reference's, and nobody notices anybody."""
    composed, sampled = crowd.composed, [job for job, _ in crowd.sampled]
    jobs = [*(one.job for one in composed), *sampled, *crowd.others]
    alone = [crowd.engine.do(drafts.ask, [job]).answered[0] for job in crowd.others]
    truth: list[Sequence[int]] = []
    for kind in drafts.KINDS:
        run = crowd.engine.do(drafts.ask, jobs, kind, truth)
        found = run.answered
        for one, answered in zip(composed, found, strict=False):
            worst.append(compare(answered, one.wanted, (kind, one.setting, one.job.options)))
        for n, (job, setting) in enumerate(crowd.sampled, start=len(composed)):
            tokens = list(found[n].answer.tokens)
            wanted = setting.reference(
                tiny_reference, tiny_shelf, job.prompt, len(tokens),
                lambda _, so_far, tokens=tokens: tokens[len(so_far)],  # type: ignore[misc]
            )  # fmt: skip
            worst.append(compare(found[n], wanted, (kind, setting, job.options)))
            assert not truth or tokens == list(truth[n])
        for before, now in zip(alone, found[len(composed) + len(sampled) :], strict=True):
            assert now.answer.tokens == before.answer.tokens
            assert furthest(now.answer.logprobs, before.answer.logprobs) <= CLOSE
        assert run.left == NOTHING
        assert (run.kept == run.drafted, run.kept == 0) == (kind == "right", kind == "wrong")
        truth = truth or [one.answer.tokens for one in found]


DRAFT_TOKENS = {"v1": 24, "v2": 6}
N_GRAMS = {"method": "ngram", "prompt_lookup_max": 3, "prompt_lookup_min": 1}


@pytest.mark.parametrize(
    ("runner", "method"), [("v1", "ngram"), ("v1", "draft_model"), ("v2", "draft_model")]
)
def test_beside_others_that_decode_speculatively(
    runner: str,
    method: str,
    tiny_model: Path,
    tiny_shelf: Shelf,
    tiny_reference: ReferenceModel,
    worst: list[float],
) -> None:
    """Dynamic answers take no proposals of the speculator; what others take changes no answer."""
    speculation = {"method": method, "num_speculative_tokens": 3}
    speculation |= N_GRAMS if method == "ngram" else {"model": str(tiny_model)}
    tokens = DRAFT_TOKENS[runner]
    asked, others = [], []
    for n, setting in enumerate((SETTINGS[0], SETTINGS[7], SETTINGS[12], SETTINGS[-5])):
        prompt = random_prompt(80 + n, 9 + 13 * n)
        wanted = setting.reference(tiny_reference, tiny_shelf, prompt, tokens)
        asked.append(Asked(Job(prompt, setting.plan(tiny_shelf), tokens), setting, wanted))
        repeated = random_prompt(90 + n, 5) * 6
        others.append(Job(repeated, (None, tiny_shelf.plan(5, 0.1, (0, 2), "all"))[n % 2], tokens))
    engine = start(runner, tiny_model, tiny_shelf, speculative_config=speculation)
    alone = [engine.do(drafts.ask, [job]).answered[0] for job in others]
    before = engine.metric("vllm:spec_decode_num_draft_tokens")
    for kind in ("own", "wrong"):
        run = engine.do(
            drafts.ask, [*(one.job for one in asked), *others], kind,
            [*(one.wanted.tokens for one in asked), *([],) * len(others)],
        )  # fmt: skip
        for one, found in zip(asked, run.answered, strict=False):
            worst.append(compare(found, one.wanted, (method, kind, one.setting)))
        for known, found in zip(alone, run.answered[len(asked) :], strict=True):
            assert found.answer.tokens == known.answer.tokens
        assert run.left == NOTHING
        assert (run.kept > 0) == (kind == "own")
    assert engine.metric("vllm:spec_decode_num_draft_tokens") > before
    engine.close()


@pytest.mark.parametrize(("runner", "number"), [("v1", 500)])
def test_five_hundred_with_random_ends_leave_nothing(
    runner: str, number: int, tiny_model: Path, tiny_shelf: Shelf
) -> None:
    """Cancels, priorities, preemptions and wrong drafts; what ends ends as it would alone."""
    chance = random.Random(5)
    # Two of a k of 3, with four companions each, start in ten blocks of twelve, and need more.
    engine = start(
        runner, tiny_model, tiny_shelf, scheduling_policy="priority", num_gpu_blocks_override=13,
        max_num_batched_tokens=24, max_num_seqs=24, max_model_len=128,
    )  # fmt: skip
    jobs = []
    for n in range(number):
        setting = Setting(
            chance.randint(1, 3), start=0.4, cap=0.4, every=chance.choice((1, 1, 2)),
            steps=chance.choice((1, 1, 4)), layers=(1,),
        )  # fmt: skip
        prompt = random_prompt(n % 40, chance.choice((1, 20, 25, 28, 31)))
        jobs.append(Job(prompt, setting.plan(tiny_shelf), chance.randint(1, 24)))
    found = engine.do(turmoil.stir, jobs, 0.04, 7)
    assert found.left == NOTHING
    assert 0.5 * number < len(found.ended) < 0.95 * number
    assert found.preempted > number // 50
    assert found.spoiled > number
    assert found.companions > 5
    ended = [jobs[n] for n in found.ended]
    alone = engine.do(drafts.ask, ended).answered
    assert [one.answer.tokens for one in alone] == list(found.ended.values())
    engine.close()
