"""The demo presets: names for vectors of the demo with coefficients that visibly work."""

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from steersman.vectors.errors import DemoError, PresetConflict
from steersman.vectors.library.library import Library
from steersman.vectors.library.presets import PresetStore, Version


class DemoPreset(NamedTuple):
    """A preset of the demo."""

    description: str
    vectors: dict[str, float]
    """Coefficients, by vector."""


def load_presets() -> dict[str, DemoPreset]:
    """The presets, by name; raises `DemoError` if the package's file is broken."""
    file = resources.files("steersman.vectors.demo") / "presets.json"
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        return {name: DemoPreset(**fields) for name, fields in sorted(given.items())}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DemoError(f"presets.json is broken ({error!r}): reinstall steersman") from error


def add_presets(library: Library, root: Path, progress: Callable[[str], None]) -> None:
    """Add the demo presets that the library in `root` lacks, pinned to what their vectors are. A
    name that stands for something else belongs to the user and is left unchanged. Raises
    `LibraryError`."""
    store = PresetStore(root)
    for name, preset in load_presets().items():
        if name in store.all():
            continue
        uses = [{"id": id_, "coefficient": c} for id_, c in preset.vectors.items()]
        pins = tuple(library.resolve(id_).digest for id_ in preset.vectors)
        try:
            store.add(name, Version({"vectors": uses}, pins), preset.description)
        except PresetConflict:
            # Another server has just made one of this name.
            continue
        progress(f"demo presets: added {name!r} to {root}")
