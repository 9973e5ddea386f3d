"""A sweep's results as a table and as JSON."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steersman.client.cli import show
from steersman.client.errors import CliError, WrongUsage
from steersman.client.sweep.grid import UNSTEERED
from steersman.client.sweep.pick import RULE, Pick, fluent
from steersman.client.sweep.run import CellResult

COLUMNS = (
    "layers", "coefficient", "dose", "behaviour", "±", "gain", "± gain", "perplexity", "repeated",
    "",
)  # fmt: skip


def print_table(results: Sequence[CellResult], picked: Pick | None, title: str) -> None:
    """One row a cell, the picked one marked."""
    unsteered = results[0]
    rows = []
    for result in results:
        word = "unsteered" if result.cell == UNSTEERED else _verdict(result, unsteered)
        chosen = picked is not None and picked.result is result
        rows.append(
            (
                layers_text(result.cell.layers) or "-",
                f"{result.cell.coefficient:g}",
                show.number(_dose(result)),
                *(show.number(_known(n)) for n in (result.measure, result.error)),
                *(show.number(_known(n)) for n in _gain(result)),
                *(show.number(_known(n)) for n in (result.perplexity, result.repetition)),
                "picked" if chosen else word,
            )
        )
    marked = [n for n, r in enumerate(results) if picked is not None and picked.result is r]
    show.table(COLUMNS, rows, title=title, numbers=COLUMNS[1:-1], marked=marked)


def to_json(results: Sequence[CellResult], picked: Pick | None, **about: Any) -> dict[str, Any]:
    """The whole result as JSON. `about`: what was swept. Numbers that do not exist are null."""
    unsteered = results[0]
    return {
        "object": "steersman.sweep",
        **about,
        "rule": RULE,
        "picked": None if picked is None else _picked(picked),
        "cells": [_cell(result, unsteered) for result in results],
    }


def patch_of(picked: Pick) -> dict[str, Any]:
    """The body of a PATCH that makes the pick the vector's defaults."""
    return {
        "coefficient": picked.result.cell.coefficient,
        "layers": list(picked.result.cell.layers),
        "safe_range": list(picked.safe_range),
    }


def layers_text(layers: tuple[int, ...]) -> str:
    """Layers as `--layers` accepts them: `14+16`."""
    return "+".join(map(str, layers))


def _picked(picked: Pick) -> dict[str, Any]:
    return patch_of(picked) | {
        "measure": picked.result.measure,
        "perplexity": picked.result.perplexity,
    }


def _cell(result: CellResult, unsteered: CellResult) -> dict[str, Any]:
    return {
        "layers": list(result.cell.layers),
        "coefficient": result.cell.coefficient,
        "relative_dose": None if result.relative_dose is None else dict(result.relative_dose),
        "measure": _known(result.measure),
        "standard_error": _known(result.error),
        "gain": _known(result.gain),
        "gain_standard_error": _known(result.gain_error),
        "perplexity": _known(result.perplexity),
        "repetition": _known(result.repetition),
        "tokens": result.tokens,
        "unmeasured": result.unmeasured,
        "fluent": fluent(result, unsteered),
        "refused": result.refused,
        "answers": [
            {
                "prompt": scored.answer.prompt,
                "text": scored.answer.text,
                "measure": scored.measure,
                "log_probability": math.fsum(scored.log_probabilities),
                "tokens": len(scored.log_probabilities),
            }
            for scored in result.answers
        ],
    }


def _verdict(result: CellResult, unsteered: CellResult) -> str:
    if result.refused is not None:
        return f"refused: {result.refused}"
    return "" if fluent(result, unsteered) else "not fluent"


def _gain(result: CellResult) -> tuple[float, float]:
    """The gain and its standard error; NaN for the unsteered cell."""
    if result.cell == UNSTEERED:
        return math.nan, math.nan
    return result.gain, result.gain_error


def _dose(result: CellResult) -> float | None:
    """The largest dose at one of the cell's layers."""
    return max(result.relative_dose.values()) if result.relative_dose else None


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def targets(folder: Path, stem: str) -> tuple[Path, Path]:
    """Paths of the JSON file and the figure. Makes the folder. Raises `WrongUsage` before any work
    is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongUsage(f"{folder} cannot be made: {error.strerror}", param="--out") from error
    return folder / f"{stem}.json", folder / f"{stem}.png"


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` to `path`, indented. Raises `CliError`."""
    try:
        path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}", param="--out") from error
