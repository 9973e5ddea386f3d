"""The settings as options of `steersman serve`: one for each field of `Settings`."""

import argparse
import os
from pathlib import Path
from typing import Any, Final

from pydantic.fields import FieldInfo

from steersman.steering.plan.settings import Settings, flag_of, kind_of, option_of

FOLDERS: Final = frozenset({"library"})
"""Paths that are resolved. Of others links are kept: a Secret's and a rotated log's point elsewhere
tomorrow."""


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every setting."""
    for name, field in Settings.model_fields.items():
        parser.add_argument(flag_of(name), dest=name, **_argument(name, field))


def _argument(name: str, field: FieldInfo) -> dict[str, Any]:
    option, kind = option_of(field), kind_of(field)
    what = str(field.description).replace("%", "%%")
    found: dict[str, Any] = {"default": field.get_default(call_default_factory=True)}
    if kind is bool:
        return {**found, "action": argparse.BooleanOptionalAction, "help": what}
    paths: dict[bool, Any] = {True: _absolute, False: os.path.abspath}
    found["type"] = paths[name in FOLDERS] if kind is str else kind
    default = option.unset or "%(default)s"
    return {**found, "metavar": option.metavar, "help": f"{what} (default: {default})"}


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())
