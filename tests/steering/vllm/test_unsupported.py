"""Ways of running that are refused, without an engine."""

from types import SimpleNamespace
from typing import Any

import pytest

from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.plan.settings import Settings
from steersman.steering.vllm.config import no_gates
from steersman.steering.vllm.unsupported import (
    check_device,
    check_v1,
    check_version,
    check_ways,
    no_captures,
    no_dynamic,
)


def config(connector: str | None = None, drafts: object = None, **changes: Any) -> Any:
    """As much of a VllmConfig as is looked at."""
    parallel = {
        "pipeline_parallel_size": 1,
        "use_ubatching": False,
        "prefill_context_parallel_size": 1,
        "use_sequence_parallel_moe": False,
        "enable_hc_sp": False,
        "tensor_parallel_size": 2,
    }
    cache = {"kv_sharing_fast_prefill": False, "mamba_cache_mode": "none"}
    for name, value in changes.items():
        next(part for part in (parallel, cache) if name in part)[name] = value
    transfer = None if connector is None else SimpleNamespace(kv_connector=connector)
    return SimpleNamespace(
        parallel_config=SimpleNamespace(**parallel),
        cache_config=SimpleNamespace(**cache),
        kv_transfer_config=transfer,
        speculative_config=drafts,
    )


@pytest.mark.parametrize(
    "version", ["0.32.0", "0.32.1", "0.32.0+cpu", "0.32.0.dev3", "0.33.0", "0.33.0+cpu"]
)
def test_supported_versions(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["0.31.9", "0.34.0", "0.320.0", "1.0.0", "dev", ""])
def test_other_versions_are_refused_with_the_remedy(version: str) -> None:
    with pytest.raises(RuntimeError, match="take steersman out of VLLM_PLUGINS"):
        check_version(version)


def test_ways_that_are_steered_pass() -> None:
    check_ways(config())
    check_ways(config(enable_hc_sp=True, tensor_parallel_size=1))
    check_ways(config(pipeline_parallel_size=2))
    check_ways(config(drafts=object()))
    check_ways(config("OffloadingConnector"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pipeline_parallel_size": 2, "drafts": object()}, "pipeline parallel with speculative"),
        ({"use_ubatching": True}, "micro-batches"),
        ({"prefill_context_parallel_size": 2}, "prefill context parallel"),
        ({"kv_sharing_fast_prefill": True}, "fast prefill"),
        ({"use_sequence_parallel_moe": True}, "expert parallel with sequence parallel"),
        ({"enable_hc_sp": True}, "sequence parallel blocks"),
        (
            {"connector": "OffloadingConnector", "mamba_cache_mode": "align"},
            "the KV connector OffloadingConnector with a state-space model",
        ),
        ({"connector": "SimpleCPUOffloadConnector"}, "the KV connector SimpleCPUOffloadConnector"),
    ],
)
def test_ways_that_are_not_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(NotInstrumentable, match=f"cannot steer under {named}"):
        check_ways(config(**changes))


def test_requests_that_a_pipeline_cannot_answer() -> None:
    assert no_dynamic(config()) is no_captures(config()) is None
    for refuses in (no_dynamic, no_captures):
        assert refuses(config(pipeline_parallel_size=2)) == "pipeline parallel"


def test_a_setting_that_v1_cannot_honour_is_refused_with_the_variable() -> None:
    check_v1(Settings())
    with pytest.raises(NotInstrumentable, match="VLLM_USE_V2_MODEL_RUNNER=1, or drop"):
        check_v1(Settings(graphs_without_steering=True))


def test_devices() -> None:
    from vllm.platforms import PlatformEnum, current_platform

    check_device(current_platform)
    for kind in PlatformEnum:
        platform: Any = SimpleNamespace(_enum=kind)
        if kind in (PlatformEnum.CPU, PlatformEnum.CUDA, PlatformEnum.ROCM):
            check_device(platform)
        else:
            with pytest.raises(NotInstrumentable, match=f"cannot steer on {kind.name} devices"):
                check_device(platform)


def test_vllms_configuration_has_what_is_looked_at() -> None:
    from vllm.config import ParallelConfig

    assert ParallelConfig().use_sequence_parallel_moe is False


def gates(device: str = "cpu", **changes: Any) -> Any:
    """A configuration in which gates and markers are served, and `changes`."""
    ahead, v2 = changes.pop("ahead", False), changes.pop("v2", False)
    found = config(**{"tensor_parallel_size": 1, **changes})
    found.device_config = SimpleNamespace(device_type=device)
    found.scheduler_config = SimpleNamespace(async_scheduling=ahead)
    found.use_v2_model_runner = v2
    return found


def test_gates_and_markers_are_served_where_they_were_tried() -> None:
    served: tuple[dict[str, Any], ...] = ({}, {"v2": True}, {"ahead": True}, {"drafts": object()})
    for one in served:
        assert no_gates(gates(**one)) is None
    assert no_gates(gates(tensor_parallel_size=2)) is None
    refused: tuple[tuple[str, dict[str, Any]], ...] = (
        ("GPU", {"device": "cuda"}),
        ("pipeline", {"pipeline_parallel_size": 2}),
        ("speculative", {"ahead": True, "drafts": object()}),
        ("V2", {"ahead": True, "v2": True}),
        ("tensor", {"tensor_parallel_size": 2, "v2": True}),
    )
    for said, changes in refused:
        assert said in str(no_gates(gates(**changes)))
