"""What a compiled graph is filed under."""

import shutil
from pathlib import Path

import pytest
from vllm.config import VllmConfig

from steersman.steering.vllm import compile_cache


@pytest.fixture
def unpatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's own `compute_hash`, whoever patched it before; undone after the test."""
    own = VllmConfig.compute_hash
    monkeypatch.setattr(VllmConfig, "compute_hash", getattr(own, "__wrapped__", own))


@pytest.mark.usefixtures("unpatched")
def test_the_compile_cache_knows_whether_the_plugin_is_there() -> None:
    without = VllmConfig().compute_hash()
    assert VllmConfig().compute_hash() == without
    compile_cache.install()
    steered = VllmConfig().compute_hash()
    assert steered != without
    assert len(steered) == len(without)
    compile_cache.install()
    assert VllmConfig().compute_hash() == steered


ROOM = Path(compile_cache.__file__).parents[1]
FOLDERS = sorted({path.parent.relative_to(ROOM).as_posix() for path in ROOM.rglob("*.py")})


@pytest.mark.usefixtures("unpatched")
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_compile_cache_knows_our_sources(
    folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    room = tmp_path / "steering"
    shutil.copytree(ROOM, room)
    own = VllmConfig.compute_hash
    keys = []
    for edit in ("", "# edited\n"):
        with (room / folder / "__init__.py").open("a") as file:
            file.write(edit)
        monkeypatch.setattr(compile_cache, "__file__", str(room / "vllm" / "compile_cache.py"))
        monkeypatch.setattr(VllmConfig, "compute_hash", own)
        compile_cache.install()
        keys.append(VllmConfig().compute_hash())
    assert keys[0] != keys[1]


@pytest.mark.usefixtures("unpatched")
def test_the_compile_cache_knows_our_settings() -> None:
    compile_cache.install()
    keys = {
        VllmConfig(additional_config={"steersman": {"max_terms": k}}).compute_hash() for k in (4, 8)
    }
    assert len(keys) == 2
