"""Requests that come, are cancelled, lose their blocks and end at random, in a real engine."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from vllm.inputs import TokensPrompt

from steersman.steering.worker.composition import Composer
from tests.support.engine.drafts import Job, parameters
from tests.support.engine.engine import Engine

AT_ONCE = 6


class Turmoil(NamedTuple):
    """What became of the requests."""

    ended: dict[int, tuple[int, ...]]
    """The answers of those that were not cancelled, by number."""
    preempted: int
    companions: int
    """The most that there were at once."""
    spoiled: int
    """Drafts that were made wrong, or right by chance."""
    left: tuple[int, ...]
    """What they left behind, as `Engine.left` counts it."""


def stir(engine: Engine, jobs: Sequence[Job], cancel: float, seed: int) -> Turmoil:
    """Run all jobs, some at once, at random priorities; half of the drafts are spoiled, and in a
    part `cancel` of the steps somebody is cancelled."""
    chance = random.Random(seed)
    llm = engine.llm.llm_engine
    scheduler = llm.engine_core.engine_core.scheduler  # type: ignore[attr-defined]
    before = engine.metric("vllm:num_preemptions")
    waiting, running = list(range(len(jobs))), list[int]()
    ended, most = dict[int, tuple[int, ...]](), 0
    with _spoiled(chance) as made:
        while waiting or llm.has_unfinished_requests():
            while waiting and len(running) < AT_ONCE:
                n = waiting.pop()
                prompt = TokensPrompt(prompt_token_ids=list(jobs[n].prompt))
                llm.add_request(
                    str(n), prompt, parameters(n, jobs[n]), priority=chance.randrange(3)
                )
                running.append(n)
            for output in llm.step():
                if output.finished:
                    running.remove(int(output.request_id))
                    completion = output.outputs[0]  # type: ignore[index]
                    ended[int(output.request_id)] = tuple(completion.token_ids)
            most = max(most, len(scheduler.steering_companions))
            if running and chance.random() < cancel:
                llm.abort_request([str(running.pop(chance.randrange(len(running))))])
    preempted = int(engine.metric("vllm:num_preemptions") - before)
    return Turmoil(ended, preempted, most, len(made), engine.left())


@contextmanager
def _spoiled(chance: random.Random) -> Iterator[list[int]]:
    """Half of the drafts are another token. Gives these."""
    made, own = list[int](), Composer.draft

    def draft(self: Composer, *args: object) -> int:
        token = own(self, *args)  # type: ignore[arg-type]
        if chance.random() < 0.5:
            return token
        made.append((token + 1) % 500)
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Composer, "draft", draft)
        yield made
