"""Prints for people: results on stdout; notes, progress and errors on stderr."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import typer

from steersman.client.errors import CliError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDE: Final = 160
"""Columns where there is no terminal: what reads a pipe breaks no lines."""


def out() -> "Console":
    """The console of results."""
    return _console(stderr=False)


def err() -> "Console":
    """The console of everything else."""
    return _console(stderr=True)


def note(text: str) -> None:
    """Print a line that is not a result to stderr."""
    typer.echo(plain(text), err=True)


def result(text: str) -> None:
    """Print a result to stdout."""
    typer.echo(plain(text))


def print_json(value: Any) -> None:
    """Print `value` as JSON, the only output on stdout under `--json`."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def error(failure: CliError, as_json: bool) -> None:
    """Print message, param and remedy to stderr; under `--json` also an object on stdout."""
    if as_json:
        print_json(failure.to_json())
    typer.secho("error: ", nl=False, err=True, fg=typer.colors.RED, bold=True)
    note(failure.message)
    if failure.param:
        note(f"  param: {failure.param}")
    if failure.remedy:
        note(f"  remedy: {failure.remedy}")


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    title: str | None = None,
    numbers: Sequence[str] = (),
    marked: Sequence[int] = (),
) -> None:
    """Print a table to stdout. The columns `numbers` are aligned to the right; the rows `marked`
    are green."""
    from rich import box
    from rich.table import Table

    made = Table(title=title and plain(title), title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        right = column in numbers
        made.add_column(
            column, justify="right" if right else "left", no_wrap=right, overflow="fold"
        )
    _add(made, rows, marked)
    out().print(made)


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one below the other; a value of None is left out."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    _add(made, [pair for pair in pairs if pair[1] not in (None, "")], ())
    out().print(made)


def plain(text: str) -> str:
    """`text` without control characters that a terminal would obey: it may come from a model or a
    stranger."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def layers(numbers: Sequence[int]) -> str:
    """`[8, 9, 10, 25]` as `8-10,25`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def positions(value: Any) -> str:
    """A position rule in a few words."""
    if isinstance(value, str):
        return value
    stop = value.get("stop")
    return f"tokens {value.get('start')}:{'' if stop is None else stop}"


def operation(vector: Mapping[str, Any]) -> str | None:
    """What a vector does, with its settings, as in `clamp min=0.5`; None if it is added."""
    name, settings = vector.get("operation", "add"), vector.get("operation_settings") or {}
    if name == "add":
        return None
    return " ".join([name, *(f"{key}={value}" for key, value in settings.items())])


def number(value: float | None) -> str:
    """`value` with four digits, or a dash."""
    return "-" if value is None else f"{value:.4g}"


def _add(made: "Table", rows: Iterable[Sequence[Any]], marked: Sequence[int]) -> None:
    from rich.text import Text

    for n, row in enumerate(rows):
        # `Text`, so that square brackets are not taken for markup.
        cells = [Text(plain(str(cell))) for cell in row]
        made.add_row(*cells, style="bold green" if n in marked else None)


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    file = sys.stderr if stderr else sys.stdout
    return Console(file=file, width=None if file.isatty() else _WIDE, highlight=False)
