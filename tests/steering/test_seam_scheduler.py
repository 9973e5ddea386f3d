"""Which blocks a failed request spoils, with a scheduler that has only blocks."""

from types import SimpleNamespace
from typing import Any

import pytest

from steering.seam_scheduler import _blocks_of

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
