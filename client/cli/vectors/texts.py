"""The texts of an extraction, from files: one text a line, or JSONL in the server's form."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steersman.client.errors import WrongUsage


class Texts(NamedTuple):
    """The fields of a request that concern its texts, and the JSONL file that is sent with it, or
    None."""

    body: dict[str, Any]
    lines: bytes | None


def read_texts(
    pairs: Path | None, positive: Path | None, negative: Path | None, styles: Sequence[Path]
) -> Texts:
    """Read the texts, given in one of the three ways. Raises `WrongUsage`."""
    given = [pairs is not None, positive is not None or negative is not None, bool(styles)]
    if sum(given) != 1:
        raise WrongUsage(
            "give the texts in one way",
            param="--pairs",
            remedy="use --pairs FILE.jsonl, or --positive FILE and --negative FILE, or --styles "
            "DIR_OR_FILE",
        )
    if pairs is not None:
        return Texts({}, _bytes(pairs, "--pairs"))
    if styles:
        return _styles(styles)
    if positive is None or negative is None:
        missing = "--positive" if positive is None else "--negative"
        raise WrongUsage(f"{missing} is missing: one side is measured against the other",
                         param=missing)  # fmt: skip
    sides = {
        "positive": read_lines(positive, "--positive"),
        "negative": read_lines(negative, "--negative"),
    }
    return Texts(sides, None)


def _styles(paths: Sequence[Path]) -> Texts:
    """Text files of one style each, in folders or named directly; or one JSONL file of texts and
    labels."""
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if any(file.suffix == ".jsonl" for file in files):
        if len(files) > 1:
            raise WrongUsage(
                "a JSONL file has the texts of all styles", param="--styles", remedy="give it alone"
            )
        return Texts({}, _bytes(files[0], "--styles"))
    found: dict[str, list[str]] = {}
    for file in files:
        if file.stem in found:
            raise WrongUsage(f"there are two files of the style {file.stem!r}", param="--styles")
        found[file.stem] = read_lines(file, "--styles")
    if len(found) < 2:
        raise WrongUsage(
            f"there are texts of {len(found)} styles, and a style is measured against others",
            param="--styles",
            remedy="give a folder with a .txt file for each style, or --styles once for each file",
        )
    return Texts({"styles": found}, None)


def read_lines(file: Path, option: str) -> list[str]:
    try:
        text = _bytes(file, option).decode()
    except UnicodeDecodeError as error:
        raise WrongUsage(f"{file} is not UTF-8: {error}", param=option) from error
    # Not splitlines(): a text may hold form feeds and other marks that do not end a line.
    found = [line.strip() for line in text.split("\n") if line.strip()]
    if not found:
        raise WrongUsage(f"there are no texts in {file}", param=option)
    return found


def _bytes(file: Path, option: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise WrongUsage(f"{file} cannot be read: {error.strerror}", param=option) from error
