"""Which processor cores the launcher gives to which worker."""

import argparse

import pytest

from server.launcher import _workers_here, thread_binding


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
    assert _workers_here(args) == workers
