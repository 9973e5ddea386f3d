"""Keys of the prefix cache on vLLM's own requests: what they cost, and what form they have."""

from collections import Counter
from typing import Any

import pytest

from steersman.steering.plan import PLAN_KEY, Plan, PlannedVector
from steersman.steering.plan import plan as plan_module
from steersman.steering.plan.cache_key import CacheKeys
from steersman.steering.vllm.core import prefix_cache
from steersman.vectors.tensors import HookPoint
from tests.support.steering.make import digest, plan_of, planned

BLOCK = 16


def hashed(text: str, tokens: int) -> Any:
    """A request whose blocks have their hashes."""
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    prefix_cache.install()
    init_none_hash(sha256)
    params = SamplingParams(max_tokens=9, extra_args={PLAN_KEY: text})
    hasher = get_request_block_hasher(BLOCK, sha256)
    return Request("r", [1] * tokens, params, None, block_hasher=hasher)


def test_a_long_prompt_is_laid_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """CASES 4.4, 4.21: not for each of its blocks; counted, not timed."""
    called = Counter[str]()

    def count(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def counting(*args: Any) -> Any:
            called[name] += 1
            return original(*args)

        monkeypatch.setattr(owner, name, counting)

    count(plan_module, "_laid_out")
    count(Plan, "from_json")
    count(CacheKeys, "of")
    terms = tuple(HookPoint("resid_post", layer) for layer in range(90))
    heavy = Plan(
        tuple(PlannedVector(digest(n), 1.0, terms, "all", (0.5,) * 1024) for n in range(8))
    )
    request = hashed(heavy.to_json(), 2000 * BLOCK)
    assert called == {"from_json": 1, "_laid_out": 1, "of": 2000}
    request.append_output_token_ids([2] * BLOCK)
    assert called == {"from_json": 1, "_laid_out": 1, "of": 2001}


def test_a_plan_that_nobody_can_read_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    called = Counter[str]()

    def counting(text: object) -> Plan:
        called["from_json"] += 1
        return original(text)

    original = Plan.from_json
    monkeypatch.setattr(Plan, "from_json", counting)
    request = hashed("{}", 50 * BLOCK)
    assert called["from_json"] == 1
    assert prefix_cache.steering_key(request, 0, BLOCK) == "invalid:r"


def test_a_hash_that_reaches_further_has_the_steering_of_its_block_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM 0.33 with a drafter: what the tokens behind a block are steered by is not in it."""
    from vllm.v1.core import kv_cache_utils

    def reaching(request: Any, start: int, _stop: int, reach: int, start_mm: int) -> Any:
        return kv_cache_utils.generate_block_hash_extra_keys(request, start, reach, start_mm)

    request = hashed(plan_of(planned(positions=(BLOCK, BLOCK + 4))).to_json(), 3 * BLOCK)
    name = "generate_lookahead_block_hash_extra_keys"
    if not hasattr(kv_cache_utils, name):  # Before 0.33; in its place what 0.33 does.
        monkeypatch.setattr(kv_cache_utils, name, reaching, raising=False)
    prefix_cache.install()
    extra_keys = getattr(kv_cache_utils, name)
    plain = kv_cache_utils.generate_block_hash_extra_keys
    for start, stop in ((0, BLOCK), (BLOCK, 2 * BLOCK), (2 * BLOCK, 3 * BLOCK)):
        assert extra_keys(request, start, stop, stop + 1, 0) == plain(request, start, stop, 0)
    assert plain(request, 0, BLOCK + 1, 0) != plain(request, 0, BLOCK, 0)
    request.cache_salt = "salt"
    assert extra_keys(request, 0, BLOCK, BLOCK + 1, 0) == ((("cache_salt", "salt"),), 0)


def test_keys_are_strings_as_events_want_them() -> None:
    """`to_event_extra_keys` publishes the second of each pair, in MessagePack."""
    from vllm.v1.core.kv_cache_utils import generate_block_hash_extra_keys, to_event_extra_keys

    request = hashed(plan_of(planned(positions=(20, 24))).to_json(), 3 * BLOCK)
    found = [
        generate_block_hash_extra_keys(request, start, start + BLOCK, 0)[0]
        for start in range(0, 3 * BLOCK, BLOCK)
    ]
    assert [keys is None for keys in found] == [True, False, True]
    ((key,),) = [keys for keys in to_event_extra_keys(found) or () if keys is not None]
    assert isinstance(key, str)
    assert key.startswith("20:24:")
