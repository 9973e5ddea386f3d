"""The parts of the kernel's benchmark that need no GPU: what it launches, counts and refuses."""

import json
import sys

import pytest
import torch

from bench.engine import kernel
from bench.engine.kernel import Launches, Shape, check, copies, figures

CPU = torch.device("cpu")


def test_bytes_of_a_launch() -> None:
    shape = Shape(tokens=2, terms=3, hidden=100, dtype=torch.bfloat16)
    stream, rows, tables = 2 * 2 * 100 * 2, 2 * 3 * 100 * 4, 2 * (4 + 8 * 12)
    assert shape.bytes == stream + rows + tables


def test_every_launch_has_rows_of_its_own_and_adds_them() -> None:
    bank = torch.randn(25, 16)
    bank[0] = 0
    launches = Launches.of(Shape(tokens=4, terms=3, hidden=16, dtype=torch.float32), 2, bank)
    used = launches.index[launches.coefficient != 0]
    assert sorted(used.tolist()) == list(range(1, 25))
    before = launches.hidden.clone()
    launches.run()
    added = (launches.hidden - before)[1, 2]
    torch.testing.assert_close(added, 1e-4 * bank[19:22].sum(0), rtol=0, atol=1e-6)
    assert bool((launches.token_gain == 1).all())


def test_rows_begin_again_where_the_bank_ends_and_never_at_the_zero_row() -> None:
    launches = Launches.of(Shape(5, 2, 4, torch.float32), 3, torch.zeros(8, 4))
    used = launches.index[:, :, :2].flatten().tolist()
    assert used[:9] == [1, 2, 3, 4, 5, 6, 7, 1, 2]
    assert 0 not in used


def test_figures() -> None:
    shape = Shape(1, 1, 4096, torch.bfloat16)
    found = figures(shape, launches=10, kernel=1e-4, copy=5e-5, unsteered=2e-5)
    assert (found["us"], found["copy_us"], found["unsteered_us"]) == (10.0, 5.0, 2.0)
    assert found["of_copy"] == 0.5
    assert found["gb_per_s"] == pytest.approx(shape.bytes / 1e-5 / 1e9, abs=0.1)


def test_copies_run_on_sizes_that_are_odd() -> None:
    copies(1, 2, CPU)()
    copies(32_837, 2, CPU)()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_comparison_passes_the_operation(dtype: torch.dtype) -> None:
    assert check(CPU, dtype, 40) == 0.0


def test_the_comparison_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Launches, "run", lambda self: None)
    with pytest.raises(RuntimeError, match="steps from the torch form"):
        check(CPU, torch.bfloat16, 40)
    monkeypatch.setattr(Launches, "run", lambda self: self.hidden.add_(1))
    with pytest.raises(RuntimeError, match="not steered changed"):
        check(CPU, torch.bfloat16, 40)


def test_the_comparison_finds_a_kernel_without_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Launches.run

    def without_gains(launches: Launches) -> None:
        launches.token_gain.fill_(1)
        run(launches)

    monkeypatch.setattr(Launches, "run", without_gains)
    with pytest.raises(RuntimeError, match="steps from the torch form"):
        check(CPU, torch.float32, 40)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the benchmark would run")
def test_refuses_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.engine.kernel"])
    with pytest.raises(SystemExit, match="needs an NVIDIA GPU; torch"):
        kernel.main()


def test_settings_are_plain_data() -> None:
    assert json.dumps(vars(kernel.parse_arguments([])))
    with pytest.raises(SystemExit):
        kernel.parse_arguments(["--terms", "9"])
