"""The soak finds what it is there to find: against a fake server, right and wrong in one thing."""

import asyncio
import random
from pathlib import Path

import httpx
import pytest

from bench.soak.asks import content_questions, fixed_questions, golden_answer
from bench.soak.clients import Client, Tally
from bench.soak.server import open_window
from bench.soak.shelf import CONTENTS, Guest, Shelf
from steersman.server.auth import route_scopes as routes
from steersman.server.auth.permissions import ADMIN
from tests.support.soak import Fake

ANSWERS = 300


async def soak(root: Path, fault: str | None) -> tuple[Tally, Shelf]:
    """Some hundred requests of four clients, with vectors coming, changing and going meanwhile."""
    fake = Fake(root)
    transport = httpx.ASGITransport(fake.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://fake") as http:
        shelf = Shelf(http, random.Random(1))
        await shelf.fill()
        every = fixed_questions() + content_questions(CONTENTS)
        golden = {question: await golden_answer(http, question) for question in every}
        fake.fault = fault
        tally, stop = Tally(), asyncio.Event()
        crowd = [Client(http, shelf, golden, tally, random.Random(n)) for n in range(4)]
        work = [asyncio.create_task(client.run(stop)) for client in crowd]
        work.append(asyncio.create_task(shelf.stir(0.0, stop)))
        for _ in range(6000):
            few = sum(tally.done.values()) < ANSWERS or min(len(shelf.swaps), shelf.deletions) < 4
            if tally.violations or not few:
                break
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*work)
    return tally, shelf


async def test_a_right_server_passes(tmp_path: Path) -> None:
    tally, shelf = await soak(tmp_path, None)
    assert tally.violations == []
    assert set(tally.done) == {"fixed", "swapped", "guest", "sampled", "broken_off"}
    assert tally.compared > 100
    assert tally.receipts > 100
    assert tally.statuses["400 for a deleted vector (intended)"] > 0
    assert min(len(shelf.swaps), shelf.deletions) >= 4


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("text", "golden"),
        ("count", "receipt"),
        ("digest", "receipt"),
        ("coefficient", "receipt"),
        ("receipt", "has no receipt"),
        ("uncalled-for", "unsteered answer has a receipt"),
        ("error", "503"),
        ("absent", "vector_not_found"),
        ("stale", "receipt"),
        ("undeleted", "after it had been deleted"),
    ],
)
async def test_each_fault_is_found(tmp_path: Path, fault: str, said: str) -> None:
    tally, _ = await soak(tmp_path, fault)
    assert tally.violations
    assert said in tally.violations[0]


def test_when_a_guest_may_be_there() -> None:
    guest = Guest("g", "d", None, came=(10, 11), went=(20, 21))
    assert guest.may_be_there(10.5, 10.6)
    assert guest.may_be_there(20.9, 25)
    assert not guest.may_be_there(21.1, 25)
    assert guest.may_be_gone(10.5, 12)
    assert not guest.may_be_gone(11.5, 19)
    assert guest.may_be_gone(19, 20)


def test_what_a_swapped_name_may_stand_for() -> None:
    shelf = Shelf(httpx.AsyncClient(), random.Random(0))
    shelf.swaps = [(0, 1, "a"), (10, 11, "b"), (20, 21, "a")]
    assert shelf.possible_digests(5, 6) == {"a"}
    assert shelf.possible_digests(9, 10.5) == {"a", "b"}
    assert shelf.possible_digests(11.5, 12) == {"b"}
    assert shelf.possible_digests(5, 30) == {"a", "b"}


def test_the_workers_can_be_seen_through_the_soaks_own_server_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    window = ("POST", "/collective_rpc")
    monkeypatch.setattr(routes, "_NEEDS", dict(routes._NEEDS))
    assert routes.need_of(*window) == routes.OFF
    open_window()
    assert routes.need_of(*window) == ADMIN
