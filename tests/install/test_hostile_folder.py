"""An installed Steersman in a folder with a user's own `server.py`, `vectors/` and so on."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.install import ROOMS, Environment, hostile_folder, run

IMPORTS = """
import json, pkgutil, sys
import steersman.client.cli.app, steersman.client.launch.serve, steersman.vectors.demo
from importlib.metadata import distribution, entry_points
own = distribution("steersman").entry_points
print(json.dumps({
    "modules": sorted(m.name for m in pkgutil.walk_packages(steersman.__path__, "steersman.")),
    "entry_points": {f"{x.group}: {x.name}": x.load().__module__ for x in own},
    "version": steersman.__version__,
    "imported": sorted(sys.modules),
}))
"""
PLUGINS = """
import json, sys
from vllm.plugins import load_endpoint_plugins, load_general_plugins
load_general_plugins()
from vllm.config import VllmConfig
(endpoints,) = load_endpoint_plugins(("generate",))
import steersman.server.chat.routes, steersman.steering.vllm.worker.worker
print(json.dumps({
    "patched": VllmConfig.compute_hash.__code__.co_filename,
    "endpoints": type(endpoints).__module__,
    "imported": sorted(sys.modules),
}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return hostile_folder(tmp_path)


@pytest.mark.parametrize("room", ROOMS)
def test_the_folder_is_hostile(folder: Path, room: str, environment: Environment) -> None:
    done = subprocess.run(
        [environment.python, "-c", f"import {room}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"a module of the user's own was imported: {room}" in done.stderr


def test_everything_is_imported_from_steersman(folder: Path, environment: Environment) -> None:
    said = json.loads(run([environment.python, "-c", IMPORTS], folder))
    assert said["entry_points"] == {
        "console_scripts: steersman": "steersman.client.cli",
        "vllm.general_plugins: steersman": "steersman.steering.vllm.plugin",
        "vllm.endpoint_plugins: steersman": "steersman.server.plugin",
    }
    assert len(said["modules"]) > 200
    assert said["version"]
    assert not set(ROOMS) & {name.split(".")[0] for name in said["imported"]}


def test_the_command_runs(folder: Path, environment: Environment) -> None:
    for command in ([environment.command], [environment.python, "-m", "steersman"]):
        assert "vectors" in run([*command, "--help"], folder)
    assert "--bank-rows" in run([environment.command, "serve", "--help"], folder)


@pytest.mark.parametrize("environment", ["wheel"], indirect=True)
def test_vllm_loads_the_plugins(folder: Path, environment: Environment) -> None:
    """The editable install is that of the servers of `tests/http`, in such a folder too."""
    command = [environment.python, "-c", PLUGINS]
    said = json.loads(run(command, folder, VLLM_PLUGINS="steersman").splitlines()[-1])
    assert "/steersman/steering/vllm/" in said["patched"]
    assert said["endpoints"] == "steersman.server.plugin"
    assert not set(ROOMS) & {name.split(".")[0] for name in said["imported"]}
