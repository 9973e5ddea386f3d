"""The table of a patching job as a picture."""

import io
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

from steersman.server.patching.request import Direction

CELL: Final = (44, 18)
"""Pixels, width and height."""
_TITLE, _LEFT, _TOKENS, _GAP = 26, 110, 136, 12
_RED, _BLUE, _WHITE = (178, 24, 43), (33, 102, 172), (255, 255, 255)
_INK: Final = (30, 30, 30)
_LONGEST: Final = 9
"""Characters of a token."""
_SAYS: Final[dict[Direction, str]] = {
    "denoising": "denoising: the clean stream in the corrupted prompt restores",
    "noising": "noising: the corrupted stream in the clean prompt breaks",
}


def heat_map(table: dict[str, Any]) -> bytes:
    """A PNG of `table`, a job's `patch`: a panel for each direction, a row for each hook point with
    the last layer on top, a column for each token. Red is the whole difference between both
    prompts, white none of it, blue as much the other way."""
    points, positions = table["hook_points"], table["positions"]
    shown = [direction for direction in _SAYS if direction in table]
    width = _LEFT + CELL[0] * len(positions) + _GAP
    height = _TITLE + CELL[1] * len(points) + _TOKENS + _GAP
    image = Image.new("RGB", (max(width, 520), height * len(shown)), _WHITE)
    draw = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    for n, direction in enumerate(shown):
        top = n * height + _TITLE
        draw.text((8, top - _TITLE + 5), _SAYS[direction], _INK, font)
        for row, point in enumerate(reversed(points)):
            y = top + row * CELL[1]
            draw.text((8, y + 2), point, _INK, small)
            for column in range(len(positions)):
                x = _LEFT + column * CELL[0]
                effects = table[direction]["effect"]
                effect = 0.0 if effects is None else effects[len(points) - 1 - row][column]
                box = (x, y, x + CELL[0] - 2, y + CELL[1] - 2)
                draw.rectangle(box, _colour(effect))
                ink = _WHITE if abs(effect) > 0.6 else _INK
                draw.text((x + 5, y + 2), f"{effect:.2f}", ink, small)
        below = top + len(points) * CELL[1] + 4
        for column, position in enumerate(positions):
            said = f"{position} {_token(table, column)}"
            _upright(image, said, (_LEFT + column * CELL[0] + 12, below), small)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _colour(effect: float) -> tuple[int, int, int]:
    end, share = (_RED if effect > 0 else _BLUE), min(1.0, abs(effect))
    red, green, blue = (round(w + (e - w) * share) for w, e in zip(_WHITE, end, strict=True))
    return red, green, blue


def _token(table: dict[str, Any], column: int) -> str:
    """The token of a column: both where they differ."""
    clean, corrupted = (table["tokens"][name][column] for name in ("clean", "corrupted"))
    return _short(clean) if clean == corrupted else f"{_short(clean)}/{_short(corrupted)}"


def _short(token: str) -> str:
    said = token.strip() or repr(token)[1:-1]
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST - 1]}…"


def _upright(
    image: Image.Image, text: str, at: tuple[int, int], font: ImageFont.FreeTypeFont | Any
) -> None:
    """Write `text` from the bottom to the top, its end at `at`."""
    box = font.getbbox(text)
    label = Image.new("RGB", (int(box[2]) + 2, int(box[3]) + 4), _WHITE)
    ImageDraw.Draw(label).text((0, 0), text, _INK, font)
    turned = label.rotate(90, expand=True)
    image.paste(turned.crop((0, 0, turned.width, min(turned.height, _TOKENS - 4))), at)
