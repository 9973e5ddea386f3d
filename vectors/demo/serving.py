"""The demo model as it is served: the same files, with suitable defaults of generation."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from steersman.vectors.errors import DemoError

GENERATION: Final[dict[str, Any]] = {
    "max_new_tokens": 256,
    "temperature": 0.7,
    "top_p": 0.9,
}
"""Sampling of a request that sets none. At temperature 1 and without an end, 135 million
parameters write noise until the context is full."""
_FILE: Final = "generation_config.json"


def serving_copy(model: Path) -> Path:
    """Make a directory beside `model` with links to its files, and a generation_config.json in
    which `GENERATION` overrides the model's own. It is made once, in one step. Raises
    `DemoError`."""
    target = model.with_name(f"{model.name}-served")
    try:
        own = json.loads((model / _FILE).read_text()) if (model / _FILE).exists() else {}
        config = json.dumps({**own, **GENERATION}, indent=1)
        names = sorted(path.name for path in model.iterdir() if path.name != _FILE)
        if _is_current(target, model, names, config):
            return target
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=model.parent))
        try:
            for name in names:
                (building / name).symlink_to(Path("..", model.name, name))
            (building / _FILE).write_text(config)
            os.chmod(building, 0o755)
            if target.exists():
                shutil.rmtree(target)
            os.rename(building, target)
        except OSError:
            # Another process may have finished first.
            if not _is_current(target, model, names, config):
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise DemoError(f"cannot write {target} ({error}): set STEERSMAN_HOME") from error
    return target


def _is_current(target: Path, model: Path, names: list[str], config: str) -> bool:
    try:
        linked = all((target / name).samefile(model / name) for name in names)
        return linked and (target / _FILE).read_text() == config
    except OSError:
        return False
