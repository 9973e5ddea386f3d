"""Reads what a Hugging Face folder has beside its vectors: the front matter of `README.md`, and
`config.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.file.operation import check_operations
from steersman.vectors.vector import BaseModel

_MOST_LINES: Final = 2000


@dataclass(frozen=True)
class Card:
    """Base model and licence; None is what the folder does not name."""

    base: BaseModel
    licence: str | None
    warnings: tuple[str, ...] = ()


def read_card(folder: Path) -> Card:
    """Read the card of a folder; raises `VectorInvalid` if `config.json` is broken."""
    front, warnings = _front_matter(folder / "README.md")
    config = _config(folder / "config.json")
    check_operations(front, "README.md")
    # A model's own configuration says how the model is made.
    if "architectures" not in config and "model_type" not in config:
        check_operations(config, "config.json")
    named = _text(front, "base_model") or next(
        (
            config[key]
            for key in ("base_model_name_or_path", "base_model", "_name_or_path")
            if isinstance(config.get(key), str) and config[key]
        ),
        None,
    )
    licence = _text(front, "license")
    if licence == "other":
        licence = _text(front, "license_name") or licence
    base = BaseModel(
        id=named[:256] if named else None,
        hidden_size=_count(config, "hidden_size"),
        num_layers=_count(config, "num_hidden_layers"),
    )
    return Card(base, licence[:256] if licence else None, warnings)


def _front_matter(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The YAML between two lines of dashes at the top of `path`, and what is wrong with it."""
    if not path.is_file():
        return {}, ()
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()[:_MOST_LINES]
    if not lines or lines[0].strip() != "---":
        return {}, ()
    stop = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() in ("---", "...")), None)
    if stop is None:
        return {}, ()
    try:
        front = yaml.safe_load("\n".join(lines[1:stop]))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = str(error).partition("\n")[0][:100]
        return {}, (f"the front matter of {path.name} is not YAML and was not read: {what}",)
    return (front if isinstance(front, dict) else {}), ()


def _text(front: dict[str, Any], key: str) -> str | None:
    """The text at `key`, or the first of a list of them; None for anything else."""
    value = front.get(key)
    if isinstance(value, list) and value:
        value = value[0]
    return value.strip() or None if isinstance(value, str) else None


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise VectorInvalid(
            "config.json is not JSON; fix it, or give the vector's file instead of the folder",
            param="config.json",
            code="bad_metadata",
        ) from error
    return config if isinstance(config, dict) else {}


def _count(config: dict[str, Any], key: str) -> int | None:
    # Multimodal models keep their text model's sizes one level down.
    text = config.get("text_config")
    value = config.get(key, text.get(key) if isinstance(text, dict) else None)
    return value if type(value) is int and value > 0 else None
