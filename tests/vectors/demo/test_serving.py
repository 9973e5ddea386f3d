"""The demo model as it is served: its files, and defaults of generation that suit it."""

import json
from pathlib import Path

import pytest

from steersman.vectors.demo.serving import GENERATION, serving_copy
from steersman.vectors.errors import DemoError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "generation_config.json").write_text('{"eos_token_id": 2, "temperature": 1.0}')
    return folder


def test_files_are_links_and_defaults_are_added(model: Path) -> None:
    served = serving_copy(model)
    assert (served / "model.safetensors").samefile(model / "model.safetensors")
    config = json.loads((served / "generation_config.json").read_text())
    assert config == {"eos_token_id": 2} | GENERATION
    assert json.loads((model / "generation_config.json").read_text())["temperature"] == 1.0
    assert 0 < GENERATION["max_new_tokens"] <= 512


def test_it_is_made_once_and_again_when_the_model_changes(model: Path) -> None:
    served = serving_copy(model)
    before = served.stat().st_ino
    assert serving_copy(model).stat().st_ino == before
    (model / "tokenizer.json").write_text("{}")
    assert (serving_copy(model) / "tokenizer.json").exists()
    (served / "generation_config.json").write_text("{")
    serving_copy(model)
    assert "eos_token_id" in (served / "generation_config.json").read_text()
    assert sorted(path.name for path in model.parent.iterdir()) == ["model", "model-served"]


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="STEERSMAN_HOME"):
        serving_copy(tmp_path / "none")
