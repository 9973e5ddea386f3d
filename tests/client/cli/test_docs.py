"""Every `steersman` command line in the docs can be run as written: it parses, and
the files that it names are there, or an earlier line of the page makes them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from steersman.client.cli.app import LAZY, app, load_command
from steersman.client.launch.options import own_parser

UsageError: Any = typer.BadParameter.__mro__[1]
"""typer carries a click of its own, and exports only this subclass."""
ROOT = Path(__file__).parents[3]
GENERATED = ROOT / "docs" / "commands.md"
"""Its examples are those of the help texts, and the pages have the same."""
PAGES = sorted({*ROOT.glob("docs/*.md"), ROOT / "README.md"} - {GENERATED})
_START = re.compile(r"^(?:    )?(?:\$ )?(?:\.venv/bin/)?steersman (?!serve: )")
_ENDS = {"|", "||", "&&", ";", ">", "2>", "2>/dev/null", "&"}
_FILES = re.compile(r"\.(txt|jsonl?|gguf|svec|pt|safetensors|yaml)$")


def commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, words behind `steersman`) of each command in a page's blocks of code."""
    lines = page.read_text().splitlines()
    fenced = False
    for n, line in enumerate(lines):
        if line.startswith("```"):
            fenced = not fenced
        if not _START.match(line) or not (fenced or line.startswith("    ")):
            continue
        text, more = _START.sub("", line), n
        while text.endswith("\\"):
            more += 1
            text = text[:-1] + lines[more].strip()
        words: list[str] = []
        for word in shlex.split(text, comments=True):
            if word in _ENDS:
                break
            words.append(word.rstrip(";"))
            if word.endswith(";"):
                break
        yield n + 1, words


def parse(words: list[str]) -> list[str]:
    """Parse a command line without running it; the names of its files. Raises `UsageError`, or
    `SystemExit` for `serve`."""
    if "serve" in words[:1]:
        own_parser().parse_known_args(words[1:])
        return []
    command: Any = typer.main.get_command(app)
    context, rest = command.make_context("steersman", list(words)), list(words)
    path: tuple[str, ...] = ()
    while hasattr(command, "commands"):
        left = [*getattr(context, "_protected_args", []), *context.args]
        assert left, f"{rest} names no command"
        name, command, left = command.resolve_command(context, left)
        path = (*path, name)
        if path in LAZY:
            command = load_command(*path)
        context = command.make_context(name, list(left), parent=context)
    return [word.partition("=")[2] or word for word in words if _FILES.search(word)]


def made_by(words: list[str]) -> set[str]:
    """Files that a command writes."""
    made = {words[n + 1] for n, word in enumerate(words[:-1]) if word in ("--out", "--file")}
    if words[:2] == ["vectors", "export"]:
        form = words[words.index("--format") + 1]
        made.add(f"{words[2]}.{form}")
    return made


def test_the_pages_have_commands() -> None:
    found = {str(page.relative_to(ROOT)): len(list(commands(page))) for page in PAGES}
    assert found["docs/cli.md"] > 15
    assert sum(found.values()) > 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_runs_as_written(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("examples", "tests", "docs"):
        (tmp_path / part).symlink_to(ROOT / part)
    monkeypatch.chdir(tmp_path)
    for line, words in commands(page):
        try:
            files = parse(words)
        except (UsageError, SystemExit) as error:
            message = error.format_message() if isinstance(error, UsageError) else error
            pytest.fail(f"{page.name}:{line}: steersman {shlex.join(words)}: {message}")
        for made in made_by(words):
            Path(made).parent.mkdir(parents=True, exist_ok=True)
            Path(made).touch()
        for file in files:
            assert Path(file).exists(), f"{page.name}:{line}: there is no {file}"


@pytest.mark.parametrize(
    "wrong", ["vectors lst", "vectors show", "chat --loud", "jobs show a b", "sweep x --nothing 3"]
)
def test_a_line_that_is_wrong_is_found(wrong: str) -> None:
    with pytest.raises(UsageError):
        parse(wrong.split())


def test_examples_are_what_they_are_called() -> None:
    from steersman.vectors.formats import load

    glad, gloomy = (
        (ROOT / "examples" / name).read_text().splitlines() for name in ("glad.txt", "gloomy.txt")
    )
    assert len(glad) == len(gloomy) > 16
    assert all(glad)
    assert all(gloomy)
    vector = load(ROOT / "examples" / "happy.gguf")
    assert {tensor.shape[-1] for tensor in vector.tensors.values()} == {576}
