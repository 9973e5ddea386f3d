"""Every option of ours in both spellings, for docs/operate.md: `python -m
steersman.client.launch.options` writes the page's table anew, and a test compares."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from steersman.steering.plan.settings import Settings

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "operate.md"
BEGIN: Final = "<!-- options:begin -->"
END: Final = "<!-- options:end -->"


def table() -> str:
    """A row for each setting: its option, its key under "steersman", its default, what it does."""
    from steersman.client.launch.serve import _own_parser, option_of_setting

    actions = {action.dest: action for action in _own_parser()._actions}
    options = option_of_setting()
    rows = ["| option | key | default | what it does |", "| --- | --- | --- | --- |"]
    for setting in fields(Settings):
        name = setting.name
        action = actions.get(name)
        flag = f"`{options[name]}`" if action is not None else "-"
        help_text = _plain(action.help or "") if action is not None else DESCRIPTIONS[name]
        rows.append(f"| {flag} | `{name}` | {_default(name)} | {help_text} |")
    return "\n".join(rows)


DESCRIPTIONS: Final[dict[str, str]] = {}
"""Of settings without an option."""


def _default(name: str) -> str:
    if name == "library":
        return "`$STEERSMAN_HOME/library` (`~/.cache/steersman/library`)"
    value: Any = getattr(Settings(), name)
    return "none" if value is None else f"`{json.dumps(value)}`"


def _plain(text: str) -> str:
    return re.sub(r"\s*\(default: .*\)$", "", " ".join(text.split())).replace("|", "\\|")


def page(text: str) -> str:
    """`text` of the page with its table as it should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
