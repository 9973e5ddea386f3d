"""A library whose reads hang delays who needs them, and nobody else (ENGINE 2.7)."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vllm.inputs import TokensPrompt

from steersman.steering.plan import RECEIPTS
from steersman.steering.plan.receipt import SLOW, UNAVAILABLE
from tests.engine.conftest import Shelf
from tests.support.engine.engine import Answer, Ask, Engine, answer, parameters

PATIENCE_S = 120.0
"""For what a test waits for, never for what it shows."""


@contextmanager
def hanging(*paths: Path) -> Iterator[Callable[[], None]]:
    """Reads of these files hang until the function is called, or the block ends."""
    thawed = threading.Event()
    read_bytes = Path.read_bytes

    def read(path: Path) -> bytes:
        if path in paths:
            assert thawed.wait(PATIENCE_S)
        return read_bytes(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", read)
        try:
            yield thawed.set
        finally:
            thawed.set()


class Asked:
    """Requests of one engine, whose steps the test makes."""

    def __init__(self, engine: Engine, *asks: Ask) -> None:
        self.engine = engine.llm.llm_engine
        self.ids = engine.llm.enqueue(
            [TokensPrompt(prompt_token_ids=list(ask.prompt)) for ask in asks],
            [parameters(ask) for ask in asks],
            use_tqdm=False,
        )
        known = self.engine.output_processor.request_states
        self.names = [str(known[one].external_req_id) for one in self.ids]
        """As outputs have them."""
        self.ended: dict[str, Answer] = {}

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            for output in self.engine.step():
                if output.finished:
                    self.ended[output.request_id] = answer(output)

    def answers(self, *numbers: int) -> list[Answer]:
        """Those of some of the requests, once they have ended."""
        names = [self.names[n] for n in numbers]
        self.until(lambda: all(name in self.ended for name in names))
        return [self.ended[name] for name in names]


@pytest.fixture
def asks(shelf: Shelf, text_ids: list[int]) -> list[Ask]:
    """Unsteered, steered by a vector that is read, and by one whose read hangs."""
    prompts = [tuple(text_ids[n : n + 24]) for n in range(3)]
    return [
        Ask(prompts[0], tokens=12),
        Ask(prompts[1], shelf.plan(71, 0.5, (9,), "all"), 12),
        Ask(prompts[2], replace(shelf.plan(72, 0.5, (9, 12), "all"), receipt="slow"), 12),
    ]


@pytest.fixture
def receipt() -> Iterator[str]:
    RECEIPTS.open("slow")
    yield "slow"
    RECEIPTS.close("slow")


def test_others_go_on_to_the_last_bit_and_the_one_is_served_when_it_is_read(
    engine: Engine, shelf: Shelf, asks: list[Ask]
) -> None:
    with hanging(shelf.path(72)) as thaw:
        engine.ask(*asks[:2])
        engine.forget()
        expected = engine.ask(*asks[:2])
        engine.forget()
        asked = Asked(engine, *asks)
        assert asked.answers(0, 1) == expected
        for _ in range(20):
            assert asked.engine.has_unfinished_requests()
            assert asked.engine.step() == []
        assert engine.status()["loads"] == 1
        thaw()
        (served,) = asked.answers(2)
    engine.forget()
    assert [served] == engine.ask(asks[2])
    assert len(served.tokens) == 12


def test_who_waits_too_long_gets_an_error_and_may_ask_again(
    engine: Engine, shelf: Shelf, text_ids: list[int], receipt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Ask(tuple(text_ids[:9]), replace(shelf.plan(73, 0.5, (9,)), receipt=receipt))
    with hanging(shelf.path(73)):
        monkeypatch.setattr(scheduler(engine).steering_admission.loads, "timeout", 0.5)
        asked = Asked(engine, slow, Ask(tuple(text_ids[:9]), tokens=4))
        ended, plain = asked.answers(0, 1)
        assert (ended.finish_reason, ended.tokens) == ("error", ())
        assert plain.finish_reason == "length"
        said = RECEIPTS.refusal(receipt)
        assert said is not None
        assert said.code == SLOW
        assert engine.left() == (0,) * 8
        assert engine.status()["loads"] == 0
    assert engine.ask(slow)[0].finish_reason == "length"


def test_who_is_cancelled_while_it_waits_leaves_nothing(
    engine: Engine, shelf: Shelf, asks: list[Ask]
) -> None:
    doomed = replace(asks[2], plan=shelf.plan(74, 0.5, (9,)))
    with hanging(shelf.path(74)) as thaw:
        asked = Asked(engine, *asks[:2], doomed)
        asked.answers(0)
        asked.engine.abort_request([asked.ids[2]], internal=True)
        asked.answers(0, 1)
        assert engine.left() == (0,) * 8
        assert engine.status()["loads"] == 0
        loads = scheduler(engine).steering_admission.loads
        assert (loads.waiting, loads.loading) == (0, 0)
        thaw()
        assert engine.ask(doomed)[0].finish_reason == "length"


def test_a_vector_that_cannot_be_read_ends_its_request_before_a_token(
    engine: Engine, shelf: Shelf, text_ids: list[int], receipt: str
) -> None:
    lost = Ask(tuple(text_ids[:9]), replace(shelf.plan(75, 0.5, (9,)), receipt=receipt))
    good = Ask(tuple(text_ids[:9]), tokens=4)
    with hanging(shelf.path(75)) as thaw, shelf.vanishing(75) as vanish:
        asked = Asked(engine, lost, good)
        vanish()
        thaw()
        assert [one.finish_reason for one in asked.answers(0, 1)] == ["error", "length"]
    said = RECEIPTS.refusal(receipt)
    assert said is not None
    assert said.code == UNAVAILABLE
    assert "has no file in the library" in said.message
    assert engine.left() == (0,) * 8


def scheduler(engine: Engine) -> Any:
    return engine.llm.llm_engine.engine_core.engine_core.scheduler  # type: ignore[attr-defined]
