"""Calibration by several API servers that start at once, and whose it is."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steersman.server.start.calibration import TEXTS, median_norms
from steersman.server.start.fingerprint import calibration_mark, fingerprint

MEDIANS = {"resid_post.0": 1.5, "resid_post.1": 2.5}


class Engine:
    """Stands for vLLM's engine client; API servers of one engine share `shared`."""

    def __init__(self, shared: dict[str, Any]) -> None:
        self.shared = shared
        self.renderer = SimpleNamespace(tokenizer=SimpleNamespace(encode=lambda text: [1, 2]))

    async def collective_rpc(self, method: str) -> list[Any]:
        if method == "steering_start_norms":
            self.shared["listens"] += 1
            # A second listener takes the first one's place, as in a worker.
            self.shared["heard"] = 0
            return [None]
        heard, self.shared["heard"] = self.shared["heard"], 0
        return [MEDIANS if heard == len(TEXTS) else {}]

    async def generate(self, *_: Any, data_parallel_rank: int) -> Any:
        # What vLLM's `collective_rpc` returns is the first replica's.
        assert data_parallel_rank == 0
        await asyncio.sleep(0.01)
        self.shared["heard"] += 1
        yield None


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEERSMAN_HOME", str(tmp_path))
    return tmp_path


async def test_one_measures_and_all_know(home: Path) -> None:
    shared = {"listens": 0, "heard": 0}
    servers = [median_norms(Engine(shared), "mark", 2, measure=True) for _ in range(3)]
    assert await asyncio.gather(*servers) == [MEDIANS] * 3
    assert shared["listens"] == 1
    assert await median_norms(Engine(shared), "mark", 2, measure=False) == MEDIANS


async def test_nobody_measures_unasked(home: Path) -> None:
    shared = {"listens": 0, "heard": 0}
    assert await median_norms(Engine(shared), "mark", 2, measure=False) is None
    assert shared["listens"] == 0


async def test_a_failed_measurement_lets_the_next_one_in(home: Path) -> None:
    shared = {"listens": 0, "heard": 0}
    assert await median_norms(Engine(shared), "mark", 3, measure=True) is None
    assert await median_norms(Engine(shared), "mark", 2, measure=True) == MEDIANS
    assert shared["listens"] == 2


@pytest.mark.parametrize("umask", [0o022, 0o077])
async def test_replicas_of_other_users_read_what_one_has_measured(home: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        shared = {"listens": 0, "heard": 0}
        assert await median_norms(Engine(shared), "mark", 2, measure=True) == MEDIANS
    finally:
        os.umask(before)
    assert (home / "calibration" / "mark.json").stat().st_mode & 0o777 == 0o644


async def test_the_lock_of_another_user_can_be_held(home: Path) -> None:
    lock = home / "calibration" / "mark.lock"
    lock.parent.mkdir()
    lock.touch(mode=0o444)
    shared = {"listens": 0, "heard": 0}
    assert await median_norms(Engine(shared), "mark", 2, measure=True) == MEDIANS


async def test_a_cache_that_cannot_be_used_is_logged(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "calibration").mkdir()
    (home / "calibration" / "mark.json").write_text("{")
    shared = {"listens": 0, "heard": 0}
    assert await median_norms(Engine(shared), "mark", 2, measure=True) == MEDIANS
    assert "mark.json cannot be used" in caplog.text


async def test_a_home_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STEERSMAN_HOME", str(tmp_path / "file"))
    shared = {"listens": 0, "heard": 0}
    assert await median_norms(Engine(shared), "mark", 2, measure=True) == MEDIANS
    assert "the next start measures the norms again" in caplog.text


def config(folder: Path) -> SimpleNamespace:
    """As much of vLLM's as counts."""
    hf_config = SimpleNamespace(to_dict=lambda: {"layers": 2}, _commit_hash=None)
    model = SimpleNamespace(
        model=str(folder), revision=None, dtype="float32", quantization=None, hf_config=hf_config
    )
    return SimpleNamespace(model_config=model, load_config=SimpleNamespace(load_format="auto"))


@pytest.mark.parametrize(
    "change",
    [
        lambda config: setattr(config.load_config, "load_format", "dummy"),
        lambda config: setattr(config.model_config, "quantization", "fp8"),
        lambda config: setattr(config.model_config.hf_config, "_commit_hash", "4f0c"),
        lambda config: setattr(config.model_config, "revision", SimpleNamespace(resolved="4f0c")),
        # A fine-tune over the old file: as many bytes, written later.
        lambda config: os.utime(Path(config.model_config.model) / "model.safetensors", (1, 1)),
    ],
)
def test_other_weights_are_measured_anew(tmp_path: Path, change: Callable[[Any], None]) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    given = config(tmp_path)
    before, model = calibration_mark(given), fingerprint(given.model_config)
    (tmp_path / "notes.txt").write_text("not a weight")
    assert calibration_mark(given) == before
    change(given)
    assert calibration_mark(given) != before
    assert fingerprint(given.model_config) == model


def test_a_model_is_the_same_wherever_it_is_served(tmp_path: Path) -> None:
    """Also inside its configuration: parts of it have a dtype and a version, too."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    here, there = config(tmp_path).model_config, config(tmp_path).model_config
    for model, dtype in ((here, "float32"), (there, "bfloat16")):
        said = {"layers": 2, "text_config": {"dtype": dtype, "hidden": 8}, "dtype": dtype,
                "_name_or_path": f"/home/{dtype}", "transformers_version": dtype}  # fmt: skip
        model.dtype = dtype
        model.hf_config = SimpleNamespace(to_dict=lambda said=said: said, _commit_hash=None)
    assert fingerprint(here) == fingerprint(there)
    deeper = {"layers": 3, "text_config": {"hidden": 8}}
    there.hf_config = SimpleNamespace(to_dict=lambda: deeper, _commit_hash=None)
    assert fingerprint(here) != fingerprint(there)


def test_norms_are_of_one_dtype(tmp_path: Path) -> None:
    given = config(tmp_path)
    before = calibration_mark(given)
    given.model_config.dtype = "bfloat16"
    assert calibration_mark(given) != before


@pytest.mark.parametrize("norm", [float("nan"), float("inf"), 0.0, -1.0])
async def test_norms_that_no_dose_can_be_measured_in(
    home: Path, monkeypatch: pytest.MonkeyPatch, norm: float
) -> None:
    monkeypatch.setitem(MEDIANS, "resid_post.1", norm)
    shared = {"listens": 0, "heard": 0}
    assert await median_norms(Engine(shared), "mark", 2, measure=True) is None
    # Nor are they taken from a file that somebody has written.
    (home / "calibration" / "mark.json").write_text(json.dumps({"median_norms": MEDIANS}))
    assert await median_norms(Engine(shared), "mark", 2, measure=False) is None


def test_weights_need_not_be_here(tmp_path: Path) -> None:
    assert len(calibration_mark(config(tmp_path / "hub" / "name"))) == 16
