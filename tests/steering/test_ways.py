"""Ways of running that are refused, without an engine."""

from types import SimpleNamespace
from typing import Any

import pytest

from steering.blocks import NotInstrumentable
from steering.ways import check_ways


def config(connector: str | None = None, **changes: Any) -> SimpleNamespace:
    """As much of a VllmConfig as is looked at."""
    parallel = {
        "pipeline_parallel_size": 1,
        "use_ubatching": False,
        "prefill_context_parallel_size": 1,
    }
    cache = {"kv_sharing_fast_prefill": False}
    for name, value in changes.items():
        (parallel if name in parallel else cache)[name] = value
    transfer = None if connector is None else SimpleNamespace(kv_connector=connector)
    return SimpleNamespace(
        parallel_config=SimpleNamespace(**parallel),
        cache_config=SimpleNamespace(**cache),
        kv_transfer_config=transfer,
    )


RUNNER = SimpleNamespace(use_async_spec_decode=False)


def test_ways_that_are_steered_pass() -> None:
    check_ways(config(), RUNNER)
    check_ways(config(), SimpleNamespace())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pipeline_parallel_size": 2}, "pipeline parallel"),
        ({"use_ubatching": True}, "micro-batches"),
        ({"prefill_context_parallel_size": 2}, "prefill context parallel"),
        ({"kv_sharing_fast_prefill": True}, "fast prefill"),
        ({"connector": "OffloadingConnector"}, "the KV connector OffloadingConnector"),
    ],
)
def test_ways_that_are_not_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(NotInstrumentable, match=f"cannot steer under {named}"):
        check_ways(config(**changes), RUNNER)


def test_drafts_whose_place_only_the_device_knows_are_refused() -> None:
    with pytest.raises(NotInstrumentable, match="asynchronous speculative decoding"):
        check_ways(config(), SimpleNamespace(use_async_spec_decode=True))
