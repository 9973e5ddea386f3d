"""The `Steering-Receipt` header: what is known of the receipt before the first token."""

import json
from typing import Any, Final

HEADER: Final = "Steering-Receipt"
MAX_LENGTH: Final = 4096
"""Characters. Proxies take 8 KiB for all headers of an answer."""
_FORMS: Final = (
    (),
    ("relative_dose",),
    ("relative_dose", "layers"),
    ("relative_dose", "layers", "schedule", "over", "steps", "after", "positions", "site"),
)
"""What is left out, the least of it that makes the header short enough."""


def header(receipt: dict[str, Any]) -> str:
    """The receipt, without counts, as compact JSON in ASCII of at most `MAX_LENGTH` characters;
    `truncated` is true where something is left out."""
    for omitted in _FORMS:
        text = _text(receipt, omitted, len(receipt["vectors"]), bool(omitted))
        if len(text) <= MAX_LENGTH:
            return text
    most = len(receipt["vectors"])
    while most and len(text) > MAX_LENGTH:
        most //= 2
        text = _text(receipt, _FORMS[-1], most, True)
    return text


def headers(receipt: dict[str, Any]) -> dict[str, str]:
    """The header, and leave for a page of another origin to read it."""
    return {HEADER: header(receipt), "Access-Control-Expose-Headers": HEADER}


def _text(receipt: dict[str, Any], omitted: tuple[str, ...], most: int, truncated: bool) -> str:
    said: dict[str, Any] = {
        **receipt,
        "vectors": [
            {key: value for key, value in part.items() if key not in omitted}
            for part in receipt["vectors"][:most]
        ],
    }
    if truncated:
        said["truncated"] = True
    return json.dumps(said, separators=(",", ":"), allow_nan=False)
