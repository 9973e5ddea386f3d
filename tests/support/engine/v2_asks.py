"""What the V2 runner is asked, on a tiny model; and what is run inside its process."""

import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllm.inputs import TokensPrompt

from steersman.steering.plan import RECEIPTS, Plan, PlannedVector, PositionRule, WorkerNote
from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.vllm.worker.model import layer_types
from steersman.steering.worker.blocks import find_blocks
from steersman.steering.worker.hooks import modules_of
from tests.engine.conftest import SITES, Shelf
from tests.reference.reference import Positions, Term
from tests.support.engine.engine import Answer, Ask, Engine, answer, parameters
from tests.support.matrix.tiny import LAYERS, VOCAB

NEW_TOKENS = 3
RULES = ("generation", "after_prompt", "prompt", "all", "range")


@dataclass(frozen=True)
class Case:
    """A steered request, and the same in the words of the reference."""

    ask: Ask
    terms: tuple[Term, ...]


def prompt(seed: int, length: int) -> tuple[int, ...]:
    """Random tokens."""
    chance = random.Random(seed)
    return tuple(chance.randrange(VOCAB) for _ in range(length))


def cases(shelf: Shelf, number: int) -> list[Case]:
    """Prompts of one to 130 tokens; one to three vectors by every rule, at every site, in the first
    of them in turn; often two meet at one layer."""
    chance = random.Random(0)
    return [_case(shelf, chance, n) for n in range(number)]


def _case(shelf: Shelf, chance: random.Random, n: int) -> Case:
    length = chance.choice((1, 2, 5, 31, 32, 33, 47, 48, 49, 70, 96, 97, 130))
    vectors = chance.randint(1, 3)
    planned: list[PlannedVector] = []
    terms: list[Term] = []
    for k in range(vectors):
        rule = RULES[n % len(RULES)] if k == 0 else chance.choice(RULES)
        site = SITES[n % len(SITES)] if k == 0 or chance.random() < 0.5 else chance.choice(SITES)
        layers = tuple(sorted(chance.sample(range(LAYERS), chance.randint(1, LAYERS))))
        positions, meaning = _positions(chance, rule, length)
        dose = chance.choice((-0.5, 0.5)) / vectors
        vector = shelf.planned(k, dose, layers, positions, site)
        planned.append(vector)
        terms += [
            Term(*key, vector.coefficient, shelf.vector(k).tensors[key], meaning)
            for key in vector.terms
        ]
    asked = Ask(prompt(n, length), Plan(tuple(planned)), NEW_TOKENS, prompt_logprobs=True)
    return Case(asked, tuple(terms))


def _positions(chance: random.Random, rule: str, length: int) -> tuple[PositionRule, Positions]:
    if rule != "range":
        return rule, rule
    start = chance.randrange(length)
    stop = chance.randint(start + 1, length + NEW_TOKENS)
    if chance.random() < 0.5:
        start -= length
    return (start, stop), {"start": start, "stop": stop}


def counted_ask(engine: Engine, *asks: Ask) -> tuple[list[Answer], list[list[tuple[int, ...]]]]:
    """Answers, and for each of them what the notes that its receipt collected count."""
    for n in range(len(asks)):
        RECEIPTS.open(f"c{n}")
    try:
        answers = engine.ask(
            *(
                replace(ask, plan=replace(ask.plan, receipt=f"c{n}")) if ask.plan else ask
                for n, ask in enumerate(asks)
            )
        )
        return answers, [
            [x.steered_tokens for x in RECEIPTS.read(f"c{n}")] for n in range(len(asks))
        ]
    finally:
        for n in range(len(asks)):
            RECEIPTS.close(f"c{n}")


def ask_without(engine: Engine, asks: list[Ask], file: Path) -> list[Answer]:
    """Ask when `file` was there at the door and has gone when a worker wants it."""
    away = file.with_suffix(".away")
    engine.llm.enqueue(
        [TokensPrompt(prompt_token_ids=list(ask.prompt)) for ask in asks],
        [parameters(ask) for ask in asks],
        use_tqdm=False,
    )
    shutil.move(file, away)
    try:
        return [answer(output) for output in engine.llm.wait_for_completion(use_tqdm=False)]
    finally:
        away.rename(file)


def norms_heard(engine: Engine, ask: Ask) -> dict[str, float]:
    """What calibration measures while this is answered."""
    engine.llm.collective_rpc("steering_start_norms")
    engine.ask(ask)
    found: dict[str, float] = engine.llm.collective_rpc("steering_take_norms")[0]
    return found


def runner_of(engine: Engine) -> str:
    """The module of the worker's model runner."""
    return str(engine.llm.collective_rpc(_module_of_runner)[0])


def _module_of_runner(worker: Any) -> str:
    return type(worker.model_runner).__module__


def check_without(engine: Engine, lost: list[tuple[str, int]]) -> str:
    """What the start-up check says of an engine that lost its additions at these sites."""
    found: str = engine.llm.collective_rpc(_check_without, args=(lost,))[0]
    return found


def _check_without(worker: Any, lost: list[tuple[str, int]]) -> str:
    blocks = find_blocks(worker.model_runner.get_model(), LAYERS, layer_types())
    modules = [modules_of(blocks[layer])[site] for site, layer in lost]
    kept = [vars(module).pop("forward") for module in modules]
    try:
        worker.steering.check()
    except NotInstrumentable as error:
        return str(error)
    finally:
        for module, forward in zip(modules, kept, strict=True):
            vars(module)["forward"] = forward
    return "passed"


def is_settled(engine: Engine) -> dict[str, Any]:
    """The worker's status when it has been told of all that ended: that comes with a next step."""
    engine.ask(Ask((1,), tokens=1))
    return engine.status()


def noted(engine: Engine, *asks: Ask) -> tuple[list[tuple[Answer, list[WorkerNote]]], int]:
    """Answers and notes of requests, and how many companions the worker has left afterwards."""
    found = engine.noted(*asks)
    engine.ask(Ask((1,), tokens=1))
    return found, engine.status()["companions"]


def overflow(engine: Engine, attacks: list[Ask], victims: list[Ask]) -> list[list[Answer]]:
    """As if the bound on additions were wrong: the victims before, beside and after the attacks,
    which come first."""
    steered = engine.llm.collective_rpc("steering_status")[0]
    assert steered["most_added"] < float("inf")
    before = engine.ask(*victims)
    engine.llm.collective_rpc(_bound_additions, args=(float("inf"),))
    try:
        beside = engine.ask(*attacks, *victims)
        return [before, beside, engine.ask(*victims)]
    finally:
        engine.llm.collective_rpc(_bound_additions, args=(steered["most_added"],))


def _bound_additions(worker: Any, most: float) -> None:
    worker.steering.steered.most_added = most
