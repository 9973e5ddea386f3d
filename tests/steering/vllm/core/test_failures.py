"""Which blocks a failed request spoils, with a scheduler that has only blocks."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steersman.steering.plan import Plan, PlannedVector
from steersman.steering.vllm.core.failures import _blocks_of
from steersman.vectors.tensors import HookPoint
from tests.support.steering.hashing import BLOCK, Ask
from tests.support.steering.make import digest
from tests.support.steering.scheduling import Loop, Setup

NULL = 0


def scheduler(*groups: list[int]) -> Any:
    return SimpleNamespace(
        kv_cache_manager=SimpleNamespace(
            get_block_ids=lambda request_id: groups,
            block_pool=SimpleNamespace(null_block=SimpleNamespace(block_id=NULL)),
        )
    )


@pytest.mark.parametrize(
    ("first", "found"), [(0, {4, 5, 6, 7, 8}), (1, {5, 6, 8}), (3, set()), (9, set())]
)
def test_from_a_place_on_and_never_the_block_that_is_none(first: int, found: set[int]) -> None:
    assert _blocks_of(scheduler([4, 5, 6], [7, 8, NULL]), "r", first) == found


def test_from_a_spoiled_block_on_in_each_group() -> None:
    groups = scheduler([4, 5, 6], [7, 8, 9], [NULL, 10])
    assert _blocks_of(groups, "r", after={5, 9}) == {5, 6, 9}
    assert _blocks_of(groups, "r", after={11}) == set()


# Two steps under way, as under asynchronous scheduling


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


def steered(name: str, *prompt: int) -> Ask:
    vector = PlannedVector(digest(1), 1.0, (HookPoint("resid_post", 1),), "all")
    return Ask(name, prompt, 3, Plan((vector,), receipt="r"))


def queue_step(loop: Loop) -> Any:
    """A step that is under way."""
    output = loop.scheduler.schedule()
    loop.scheduled = dict(output.num_scheduled_tokens)
    return output


def finish_step(loop: Loop, output: Any) -> list[Any]:
    found = loop.scheduler.update_from_output(output, loop.worker.run(output))
    return [one for client in found.values() for one in client.outputs]


SHARED = tuple(range(2 * BLOCK))


@pytest.mark.parametrize("v2", [False, True])
def test_who_shares_blocks_with_one_that_went_and_then_failed(folder: Path, v2: bool) -> None:
    """CASES 1.15: the step before its own, which is over first, says nothing of it."""
    loop = Loop(folder, Setup(blocks=40, seats=8, v2=v2))
    loop.add(Ask("before", (9, 9), 9))
    before = queue_step(loop)
    for ask in (steered("goes", *SHARED, 1), steered("shares", *SHARED, 2)):
        loop.add(ask)
    loop.add(Ask("plain", (*SHARED, 3), 9))
    its_own = queue_step(loop)
    assert loop.scheduled["goes"] == len(SHARED) + 1
    assert loop.scheduled["shares"] == 1
    loop.worker.fail["goes"] = "no such vector"
    loop.abort("goes")
    assert [one.request_id for one in finish_step(loop, before)] == ["before"]
    ended = {one.request_id: one.finish_reason for one in finish_step(loop, its_own)}
    assert str(ended["shares"]) == "error"
    assert ended["plain"] is None
    assert not loop.scheduler.steering_unseen
    assert not loop.scheduler.steering_unseen_until
    loop.add(steered("later", *SHARED, 4))
    queue_step(loop)
    assert loop.scheduled["later"] == len(SHARED) + 1, "nothing of it is in the cache"


@pytest.mark.parametrize("v2", [False, True])
def test_who_gets_the_blocks_of_one_that_went_is_not_ended(folder: Path, v2: bool) -> None:
    loop = Loop(folder, Setup(blocks=8, seats=8, v2=v2))
    loop.add(steered("goes", *SHARED, 1))
    its_own = queue_step(loop)
    had = loop.scheduler.kv_cache_manager.get_block_ids("goes")[0]
    loop.worker.fail["goes"] = "no such vector"
    loop.abort("goes")
    loop.add(Ask("next", tuple(range(30, 30 + 5 * BLOCK)), 2))
    queue_step(loop)
    assert {*had} & {*loop.scheduler.kv_cache_manager.get_block_ids("next")[0]}
    assert finish_step(loop, its_own) == []
    assert "next" in loop.scheduler.requests
