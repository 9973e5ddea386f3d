"""Where results go: a JSON file and a figure side by side."""

import json
from pathlib import Path
from typing import Any

from steersman.client.errors import CliError, WrongUsage


def targets(folder: Path, stem: str) -> tuple[Path, Path]:
    """The JSON file and the figure; the folder is made. Raises `WrongUsage` before any work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongUsage(f"{folder} cannot be made: {error.strerror}", param="--out") from error
    return folder / f"{stem}.json", folder / f"{stem}.png"


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Raises `CliError`."""
    try:
        path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}", param="--out") from error
