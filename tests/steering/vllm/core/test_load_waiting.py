"""Who waits for a vector, in vLLM's own scheduler: outside its queue, and nobody else waits."""

from pathlib import Path
from typing import Any

import pytest

from steersman.steering.plan import PLAN_KEY, Plan, PlannedVector
from steersman.steering.plan.dynamic import Dynamic
from steersman.steering.plan.receipt import SLOW, UNAVAILABLE
from steersman.vectors.tensors import HookPoint
from tests.support.steering.hashing import Ask
from tests.support.steering.make import digest
from tests.support.steering.scheduling import Loop, Setup


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


def ask(name: str, *vectors: int, most: int = 4, dynamic: bool = False) -> Ask:
    """Each vector needs two rows."""
    terms = (HookPoint("resid_post", 1), HookPoint("resid_post", 2))
    named = tuple(PlannedVector(digest(n), 1.0, terms, "generation") for n in vectors)
    settings = Dynamic(start=1.0, top_p=0.5, mean=False) if dynamic else None
    plan = Plan(named, "r", settings) if named else None
    return Ask(name, (1, 2, 3, 4, 5), most, plan)


def loop_of(folder: Path, **setup: Any) -> Loop:
    return Loop(folder, Setup(**{"blocks": 99, "seats": 8, **setup}, loads=True))


def code(loop: Loop, name: str) -> str:
    fields = loop.ended[name].kv_transfer_params
    found: str = fields[PLAN_KEY]["code"]
    return found


def test_a_vector_that_hangs_delays_who_needs_it(folder: Path) -> None:
    loop = loop_of(folder)
    loop.disk.hangs.add(digest(1))
    for one in (ask("waits", 1), ask("waits too", 2, 1), ask("other", 2), ask("plain")):
        loop.add(one)
    while "other" not in loop.ended:
        loop.step()
    assert loop.ended.keys() == {"plain", "other"}
    assert loop.scheduler.get_request_counts() == (0, 2)
    assert loop.waiting == (0, 0, 2)
    assert len(loop.scheduler.waiting) == 0
    for _ in range(5):  # The engine core goes on asking.
        assert loop.scheduler.has_requests()
        assert loop.step() == []
    loop.disk.hangs.clear()
    loop.finish()
    loop.check_answers()
    loop.check_empty()
    assert loop.disk.reads == {digest(1): 1, digest(2): 1}


def test_who_waits_comes_in_at_its_place(folder: Path) -> None:
    """In order of arrival, though it was read last."""
    loop = loop_of(folder, seats=1)
    loop.disk.hangs.add(digest(1))
    loop.add(ask("runs"))
    loop.add(ask("first", 1))
    loop.add(ask("second", 2))
    loop.step()
    loop.disk.hangs.clear()
    loop.finish()
    assert list(loop.ended) == ["runs", "first", "second"]
    loop.check_answers()


def test_a_vector_that_cannot_be_read_ends_who_needs_it(folder: Path) -> None:
    loop = loop_of(folder)
    loop.disk.gone.add(digest(1))
    loop.add(ask("bad", 1, 2))
    loop.add(ask("good", 2))
    loop.finish()
    assert code(loop, "bad") == UNAVAILABLE
    assert loop.answers["bad"] == []
    assert len(loop.answers["good"]) == 4
    loop.check_empty()


def test_who_waits_too_long_ends_and_a_read_that_ends_serves_the_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = loop_of(folder)
    book = loop.scheduler.steering_admission.loads
    now = 0.0
    monkeypatch.setattr(book, "_clock", lambda: now)
    loop.disk.hangs.add(digest(1))
    loop.add(ask("r", 1))
    loop.step()
    now = book.timeout
    loop.step()
    assert not loop.ended
    now += 0.1
    loop.step()
    assert code(loop, "r") == SLOW
    assert "in 30 s (--load-timeout)" in loop.ended["r"].kv_transfer_params[PLAN_KEY]["message"]
    loop.check_empty()
    loop.disk.hangs.clear()
    loop.add(ask("again", 1))
    loop.finish()
    assert len(loop.answers["again"]) == 4


@pytest.mark.parametrize("everybody", [True, False])
def test_who_is_aborted_while_it_waits_leaves_nothing(folder: Path, everybody: bool) -> None:
    loop = loop_of(folder)
    loop.disk.hangs.add(digest(1))
    loop.add(ask("r", 1))
    loop.add(ask("dynamic", 1, 2, dynamic=True))
    loop.step()
    loop.abort(None if everybody else ["r", "dynamic"])
    loop.check_empty()
    assert not loop.disk._loads
    assert loop.disk.holds == {(digest(2), "resid_post", layer, 1) for layer in (1, 2)}


def test_companions_wait_with_their_answer(folder: Path) -> None:
    loop = loop_of(folder)
    loop.disk.hangs.add(digest(1))
    loop.add(ask("dynamic", 1, 2, dynamic=True))
    loop.add(ask("plain"))
    loop.step()
    assert loop.scheduled.keys() == {"plain"}
    loop.disk.hangs.clear()
    loop.finish()
    loop.check_answers()
    loop.check_empty()


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize("ahead", [True, False])
def test_who_lost_its_blocks_finds_its_vectors_again(folder: Path, v2: bool, ahead: bool) -> None:
    loop = loop_of(folder, blocks=9, bank_rows=4, v2=v2, ahead=ahead)
    for n in range(6):
        loop.add(ask(f"r{n}", n % 3, most=12))
    loop.finish()
    assert loop.happened["ordinary preempted"]
    loop.check_answers()
    loop.check_empty()


def test_the_first_note_says_what_was_loaded(folder: Path) -> None:
    loop = loop_of(folder)
    loop.add(ask("first", 1, 2))
    loop.add(ask("second", 2))
    loads = loop.scheduler.steering_admission.loads
    loop.step()
    assert loads.seconds_of(["first", "second"]) == {"first": (0.25, 0.25)}
    assert loads.vectors == 2
