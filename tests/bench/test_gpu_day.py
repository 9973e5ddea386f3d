"""The first hour on a GPU, as far as a machine without one gets."""

import sys

import pytest

from bench.engine import gpu_day
from bench.engine.gpu_day import Machine, Step, benchmark, parse_arguments, run, steps


def test_a_machine_without_a_gpu_skips_what_needs_one_and_says_why() -> None:
    planned = steps(parse_arguments(["--quick"]), Machine(gpus=0))
    skipped = {step.name: step.skip for step in planned if step.skip}
    assert skipped == {
        "kernel": "needs a GPU",
        "moe": "needs a GPU",
        "fp8": "needs a GPU",
        "tensor_parallel": "needs two GPUs, 0 here",
    }
    assert all(step.beat for step in planned)


def test_with_gpus_a_step_is_skipped_for_want_of_a_model_alone() -> None:
    planned = steps(parse_arguments(["--moe", "m"]), Machine(gpus=2))
    skipped = {step.name: step.skip for step in planned if step.skip}
    assert skipped == {"fp8": "no model: name one with --fp8"}


def test_a_step_that_fails_does_not_stop_the_others() -> None:
    def fails() -> None:
        raise RuntimeError("no memory")

    found = run(
        [
            Step("a", "1 ms", None, fails),
            Step("b", "2 ms", "needs a GPU", fails),
            Step("c", "3 ms", None, lambda: {"x": 1}),
        ]
    )
    said = [(x["step"], x["status"], x.get("reason"), x.get("found")) for x in found]
    assert said == [
        ("a", "failed", "no memory", None),
        ("b", "skipped", "needs a GPU", None),
        ("c", "ran", None, {"x": 1}),
    ]


@pytest.mark.parametrize("step", ["overhead", "distinct", "dynamic", "kernel", "launches"])
def test_the_benchmarks_take_the_options_that_they_are_given(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import import_module

    seen: list[list[str]] = []
    monkeypatch.setattr(gpu_day, "benchmark", seen.append)
    for given in (["--model", "m"], ["--model", "m", "--quick"]):
        for one in steps(parse_arguments(given), Machine(gpus=2)):
            if one.name == step:
                one.run()
    assert len(seen) == 2
    for module, *options in seen:
        monkeypatch.setattr(sys, "argv", [module, *options])
        import_module(module).parse_arguments()


def test_what_a_benchmark_says_when_it_fails_is_kept() -> None:
    with pytest.raises(RuntimeError, match=r"exit status 1: (.|\n)*no_such_benchmark"):
        benchmark(["bench.no_such_benchmark"])
