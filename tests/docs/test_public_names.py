"""The names that `import steersman` promises, and the examples in their docstrings."""

import doctest
import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import steersman

PUBLIC = [
    "AsyncClient", "Client", "PlanInvalid", "Refused", "SteeringVector", "SteersmanError",
    "Unreachable", "__version__", "load", "offline",
]  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert steersman.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(steersman))
    assert steersman.__version__ == importlib.metadata.version("steersman")
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        _ = steersman.Server


def test_the_public_signatures_are_these() -> None:
    """A parameter that goes, or changes its place, is a change for CHANGELOG."""
    assert [*inspect.signature(steersman.load).parameters] == [
        "path", "name", "layer", "site", "as_extracted", "model", "num_layers", "layers_are",
    ]  # fmt: skip
    assert [*inspect.signature(steersman.Client).parameters] == ["url", "api_key", "transport"]
    assert [*inspect.signature(steersman.offline).parameters] == ["llm"]
    assert set(inspect.signature(steersman.SteeringVector).parameters) == {
        "tensors", "name", "description", "method", "method_settings", "base_model", "coefficient",
        "layers", "positions", "operation", "numbers", "safe_range", "norms", "licence",
        "created_at",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["steersman", "steersman.load", "steersman.SteeringVector"])
def test_the_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    value = steersman if name == "steersman" else getattr(steersman, name.partition(".")[2])
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(value) or "", {}, name, None, 0)
    assert examples.examples
    assert doctest.DocTestRunner().run(examples) == (0, len(examples.examples))


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, steersman; print({'torch', 'vllm', 'numpy', 'httpx'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
