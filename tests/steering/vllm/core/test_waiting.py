"""Who waits for bank rows, in vLLM's own scheduler: kept apart, counted, found, and in order."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steersman.steering.plan import PLAN_KEY, Plan, PlannedVector
from steersman.steering.plan.receipt import BANK_FULL
from steersman.steering.scheduler import admission
from steersman.steering.vllm import config
from steersman.vectors.tensors import HookPoint
from tests.support.steering.hashing import Ask
from tests.support.steering.make import digest
from tests.support.steering.scheduling import Loop, Setup


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


def ask(name: str, vector: int | None = None, priority: int = 0, most: int = 4) -> Ask:
    """Each vector needs two rows."""
    plan = None
    if vector is not None:
        terms = (HookPoint("resid_post", 1), HookPoint("resid_post", 2))
        plan = Plan((PlannedVector(digest(vector), 1.0, terms, "all"),), receipt="r")
    return Ask(name, (1, 2, 3), most, plan, priority=priority)


def counting(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what a pass looks at."""
    looked = Counter[str]()
    original = loop.scheduler._handle_blocked_waiting_request

    def counted(request: Any) -> bool:
        looked["at"] += 1
        found: bool = original(request)
        return found

    monkeypatch.setattr(loop.scheduler, "_handle_blocked_waiting_request", counted)
    return looked


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_a_pass_looks_at_nobody_who_waits(
    folder: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CASES 4.12: it costs who can be let in, not who waits."""
    loop = Loop(folder, Setup(blocks=90, seats=30, bank_rows=2, policy=policy), enough=3000)
    loop.add(ask("first", 0, most=60))
    for n in range(300):
        loop.add(ask(f"r{n}", 1 + n, most=1))
    looked = counting(loop, monkeypatch)
    while "first" not in loop.ended:
        loop.step()
    assert looked["at"] == 1
    assert len(loop.scheduler.waiting) == 0
    assert loop.scheduler.get_request_counts() == (0, 300)
    loop.finish()
    assert looked["at"] == 301
    assert list(loop.ended) == list(loop.asks)
    loop.check_answers()
    loop.check_empty()


@pytest.mark.parametrize("most", [0, 1, 3])
def test_at_most_so_many_wait(folder: Path, most: int) -> None:
    """CASES 1.2: under one vector as under many."""
    loop = Loop(folder, Setup(blocks=90, seats=30, bank_rows=2, max_waiting=most))
    loop.add(ask("runs", 0, most=20))
    loop.add(ask("same", 0, most=20))
    for n in range(100):
        loop.add(ask(f"r{n}", 1 + n % 2))
    loop.step()
    turned_away = {
        name: loop.ended[name].kv_transfer_params[PLAN_KEY]["code"] for name in loop.ended
    }
    assert turned_away == {f"r{n}": BANK_FULL for n in range(most, 100)}
    for name in turned_away:
        del loop.asks[name], loop.ended[name], loop.answers[name]
    loop.finish()
    loop.check_answers()
    loop.check_empty()


def test_who_waits_is_counted_and_found(folder: Path) -> None:
    loop = Loop(folder, Setup(blocks=90, seats=30, bank_rows=2))
    for name, vector in (("runs", 0), ("goes", 1), ("stays", 1)):
        loop.add(ask(name, vector))
    loop.step()
    assert loop.scheduler.get_request_counts() == (1, 2)
    assert loop.scheduler.get_num_unfinished_requests() == 3
    assert [one.request_id for one in loop.abort("goes")] == ["goes"]
    assert loop.scheduler.get_request_counts() == (1, 1)
    loop.finish()
    loop.check_answers()
    loop.check_empty()


def test_all_who_wait_can_be_ended_at_once(folder: Path) -> None:
    loop = Loop(folder, Setup(blocks=90, seats=30, bank_rows=2))
    for n in range(5):
        loop.add(ask(f"r{n}", n))
    loop.step()
    assert len(loop.abort(None)) == 5
    loop.check_empty()


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("v2", [False, True])
def test_a_crowd_begins_a_few_a_step(
    folder: Path, policy: str, v2: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are there for all of them, but the workers' time is not."""
    monkeypatch.setattr(admission, "BEGIN", 16)
    loop = Loop(folder, Setup(blocks=400, seats=80, tokens=400, bank_rows=64, policy=policy, v2=v2))
    for n in range(64):
        loop.add(ask(f"r{n}", n % 32, most=1 + n % 2))
    loop.add(ask("unsteered"))
    assert loop.scheduler.get_request_counts() == (0, 65)
    loop.step()
    assert loop.scheduled.keys() == {*(f"r{n}" for n in range(8)), "unsteered"}
    loop.abort([f"r{n}" for n in range(20, 24)])
    begun = set(loop.scheduled)
    while begun < loop.asks.keys() - loop.aborted:
        loop.step()
        assert len(loop.scheduled.keys() - begun) == 8 or len(begun) > 50
        begun |= loop.scheduled.keys()
    loop.finish()
    assert loop.steps <= 12
    loop.check_answers()
    loop.check_empty()


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_it_comes_in_at_its_own_place(folder: Path, policy: str) -> None:
    """Before those who arrived behind it, not before the others."""
    loop = Loop(folder, Setup(blocks=90, seats=2, bank_rows=2, policy=policy))
    loop.add(ask("rows", 0, most=3))
    loop.add(ask("seat", most=9))
    for name, vector in (("a", None), ("b", 1), ("c", None), ("d", 1), ("e", None)):
        loop.add(ask(name, vector, most=2))
    loop.finish()
    assert [name for name in loop.ended if len(name) == 1] == ["a", "b", "c", "d", "e"]
    loop.check_answers()
    loop.check_empty()


def test_the_more_urgent_is_served_first(folder: Path) -> None:
    loop = Loop(folder, Setup(blocks=90, seats=9, bank_rows=2, policy="priority"))
    loop.add(ask("runs", 0, priority=5))
    for name, priority in (("low", 3), ("high", 1), ("middle", 2), ("last", 3)):
        loop.add(ask(name, 1 + len(loop.asks), priority))
    loop.finish()
    assert list(loop.ended) == ["runs", "high", "middle", "low", "last"]
    loop.check_answers()
    loop.check_empty()


@pytest.mark.parametrize("caching", [True, False])
def test_who_lost_its_blocks_keeps_its_rows(folder: Path, caching: bool) -> None:
    loop = Loop(folder, Setup(blocks=9, seats=4, bank_rows=2, caching=caching))
    for name, vector in (("a", 0), ("b", 0), ("c", 1)):
        loop.add(ask(name, vector, most=20))
    while not loop.happened:
        loop.step()
    assert loop.scheduler.get_request_counts() == (1, 2)
    loop.finish()
    assert list(loop.ended) == ["a", "b", "c"]
    loop.check_answers()
    loop.check_empty()


def test_a_pooling_model_needs_no_count_of_its_layers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CASES 1.5: some configurations do not say it, and nobody can ask to be steered."""
    from vllm.pooling_params import PoolingParams
    from vllm.v1.request import Request

    def unknown(vllm_config: object) -> int:
        raise AttributeError("num_hidden_layers")

    monkeypatch.setattr(config, "num_layers", unknown)
    loop = Loop(folder, Setup(blocks=9, seats=4))
    loop.scheduler.add_request(Request("embed", [1, 2, 3], None, PoolingParams(task="embed")))
    assert loop.scheduler.schedule().num_scheduled_tokens == {"embed": 3}
    assert [one.request_id for one in loop.abort(None)] == ["embed"]
