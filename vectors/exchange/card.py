"""What a Hugging Face folder says beside its vectors: `README.md`'s front matter, `config.json`."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectors.errors import VectorInvalid
from vectors.vector import BaseModel

_LINE = re.compile(r"(license|license_name|base_model):[ \t]*(.*)")
_ITEM = re.compile(r"[ \t]*-[ \t]+(.+)")


@dataclass(frozen=True)
class Card:
    """Base model and licence, as far as the folder says."""

    base: BaseModel
    licence: str | None


def read_card(folder: Path) -> Card:
    """Read the card of a folder; raises `VectorInvalid` if `config.json` is broken."""
    front = _front_matter(folder / "README.md")
    config = _config(folder / "config.json")
    named = front.get("base_model") or next(
        (
            config[key]
            for key in ("base_model_name_or_path", "base_model", "_name_or_path")
            if isinstance(config.get(key), str) and config[key]
        ),
        None,
    )
    licence = front.get("license")
    if licence == "other":
        licence = front.get("license_name", licence)
    base = BaseModel(
        id=named[:256] if named else None,
        hidden_size=_count(config, "hidden_size"),
        num_layers=_count(config, "num_hidden_layers"),
    )
    return Card(base, licence[:256] if licence else None)


def _front_matter(path: Path) -> dict[str, str]:
    """The three keys that we use, out of the YAML between two lines of dashes.

    They are plain words or a list of them, so this reads lines and needs no YAML parser.
    """
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in (x.strip() for x in lines[1:]):
        return {}
    stop = next(n for n, line in enumerate(lines[1:], 1) if line.strip() == "---")
    found: dict[str, str] = {}
    for n, line in enumerate(lines[1:stop], 1):
        if match := _LINE.fullmatch(line.rstrip()):
            value = match[2]
            if not value and (item := _ITEM.fullmatch(lines[n + 1].rstrip())):
                value = item[1]
            if value := value.strip("[] \t").partition(",")[0].strip("\"' \t"):
                found[match[1]] = value
    return found


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise VectorInvalid(
            "config.json is not JSON; mend it, or give the vector's file instead of the folder",
            param="config.json",
            code="bad_metadata",
        ) from error
    return config if isinstance(config, dict) else {}


def _count(config: dict[str, Any], key: str) -> int | None:
    # Multimodal models keep their text model's sizes one level down.
    text = config.get("text_config")
    value = config.get(key, text.get(key) if isinstance(text, dict) else None)
    return value if type(value) is int and value > 0 else None
