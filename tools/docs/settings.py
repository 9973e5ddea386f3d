"""docs/settings.md's table: every setting in both spellings."""

import json
from pathlib import Path
from typing import Any, Final

from steersman.steering.plan.settings import Settings, flag_of
from tools.docs.markers import insert

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def settings() -> str:
    """The page, with its table brought up to date."""
    return insert(PAGE.read_text(encoding="utf-8"), "options", table())


def table() -> str:
    """A row for each setting: its option, its key under "steersman", its default, what it does."""
    rows = ["| option | key | default | what it does |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        what = str(field.description).replace("|", "\\|")
        rows.append(f"| `{flag_of(name)}` | `{name}` | {_default(name)} | {what} |")
    return "\n".join(rows)


def _default(name: str) -> str:
    if name == "library":
        return "`$STEERSMAN_HOME/library` (`~/.cache/steersman/library`)"
    value: Any = getattr(Settings(), name)
    return "none" if value is None else f"`{json.dumps(value)}`"
