"""Which processor cores the launcher gives to which worker, and what its options set."""

import argparse
import os

import pytest

from steersman.client.launch.options import own_parser, settings_of
from steersman.client.launch.vllm_arguments import (
    environment_defaults,
    thread_binding,
    workers_here,
)
from steersman.steering.plan import Settings


@pytest.mark.parametrize(
    ("cpus", "workers", "binding"),
    [
        ([0, 1], 1, "0,1"),
        ([0, 1], 2, "0|1"),
        ([0, 1], 3, "0|1|0"),
        ([0, 2, 3, 4, 5], 2, "0,2|3,4,5"),
        ([7], 2, "7|7"),
        (list(range(8)), 4, "0,1|2,3|4,5|6,7"),
    ],
)
def test_cores_are_shared_out_evenly(cpus: list[int], workers: int, binding: str) -> None:
    assert thread_binding(cpus, workers) == binding


@pytest.mark.parametrize(
    ("options", "workers"),
    [
        ({}, 1),
        ({"tensor_parallel_size": 3}, 3),
        ({"data_parallel_size": 2}, 2),
        ({"data_parallel_size": 2, "tensor_parallel_size": 2}, 4),
        ({"data_parallel_size": 4, "data_parallel_size_local": 1}, 1),
        ({"data_parallel_size": 2, "data_parallel_rank": 1}, 1),
        ({"data_parallel_size": 2, "data_parallel_external_lb": True}, 1),
        ({"tensor_parallel_size": 4, "nnodes": 2}, 2),
    ],
)
def test_workers_of_this_machine(options: dict[str, object], workers: int) -> None:
    args = argparse.Namespace(
        tensor_parallel_size=1, pipeline_parallel_size=1, nnodes=1, data_parallel_size=1,
        data_parallel_size_local=None, data_parallel_rank=None, data_parallel_external_lb=False,
    )  # fmt: skip
    vars(args).update(options)
    assert workers_here(args) == workers


def test_options_are_settings() -> None:
    given = ["--max-steps", "5", "--max-dynamic-requests", "3", "--max-terms", "2"]
    settings = Settings.read({"steersman": settings_of(own_parser().parse_args(given))})
    assert (settings.max_steps, settings.max_dynamic, settings.max_terms) == (5, 3, 2)
    plain = Settings.read({"steersman": settings_of(own_parser().parse_args([]))})
    assert plain == Settings(library=plain.library)


def test_switches_and_doses_are_settings() -> None:
    given = ["--max-total-dose", "4", "--enforce-safe-range", "--require-fingerprint",
             "--max-segments", "6"]  # fmt: skip
    settings = Settings.read({"steersman": settings_of(own_parser().parse_args(given))})
    assert (settings.max_total_dose, settings.max_segments) == (4.0, 6)
    assert settings.enforce_safe_range
    assert settings.require_fingerprint


def test_the_help_tells_the_defaults() -> None:
    text = " ".join(own_parser().format_help().split())
    assert "a tensor for each generation step (default: 64)" in text
    assert "in each engine" in text
    assert "further ones wait (default: 8)" in text


@pytest.mark.parametrize(
    ("named", "becomes"),
    [
        (None, "steersman"),
        ("", "steersman"),
        ("other", "other,steersman"),
        ("other, steersman", "other,steersman"),
        (" steersman ,other,", "steersman,other"),
    ],
)
def test_plugins_are_named_without_blanks(
    monkeypatch: pytest.MonkeyPatch, named: str | None, becomes: str
) -> None:
    # vLLM compares names as they are: behind a comma and a blank none is found.
    for variable in ("VLLM_PLUGINS", "VLLM_NO_USAGE_STATS"):
        monkeypatch.setenv(variable, "")
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
    if named is None:
        monkeypatch.delenv("VLLM_PLUGINS")
    else:
        monkeypatch.setenv("VLLM_PLUGINS", named)
    environment_defaults()
    assert os.environ["VLLM_PLUGINS"] == becomes
    # Which model runner it takes, vLLM decides.
    assert "VLLM_USE_V2_MODEL_RUNNER" not in os.environ
