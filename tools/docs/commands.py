"""docs/commands.md: every command of `steersman` with its arguments and options."""

import re
from collections.abc import Iterator
from typing import Any, Final

import typer

from steersman.client.cli.app import LAZY, app, load_command

HEAD: Final = """# Commands

Written by `python -m tools.docs` from what `steersman --help` shows. [The command line](cli.md) has
the same in examples; [Settings](settings.md) has the options of `steersman serve`.
"""


def commands() -> str:
    """The page."""
    root: Any = typer.main.get_command(app)
    return "\n".join([HEAD, *_sections(root, ())])


def _sections(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    if path == ("serve",):
        return
    if path in LAZY:
        command = load_command(*path)
    if hasattr(command, "commands"):
        for name, child in sorted(command.commands.items()):
            yield from _sections(child, (*path, name))
        return
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    words = " ".join(["steersman", *path, *(_metavar(a) for a in arguments)])
    yield f"## {' '.join(path)}\n"
    yield f"`{words}{' [OPTIONS]' if options else ''}`\n"
    for paragraph in (command.help or command.short_help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            title, *lines = paragraph.removeprefix("\b\n").replace("\\[", "[").splitlines()
            yield f"{title}\n"
            yield "\n".join(f"    {line.removeprefix('  ')}" for line in lines) + "\n"
        else:
            yield f"{_plain(paragraph)}\n"
    rows = [(f"`{_metavar(a)}`", _plain(a.help or "")) for a in arguments]
    rows += [(f"`{_spelling(o)}`", _plain(o.help or "")) for o in options if o.name != "help"]
    if rows:
        yield "| | |\n| --- | --- |"
        yield "\n".join(f"| {left} | {right} |" for left, right in rows) + "\n"


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _spelling(option: Any) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    if getattr(option, "is_flag", False):
        return names
    kind = option.metavar or option.name.upper()
    return f"{names} {kind}".replace("|", "\\|")


def _plain(text: str) -> str:
    plain = re.sub(r"\[/?[a-z]+\]", "", " ".join(text.split()))
    return plain.replace("\\[", "[").replace("|", "\\|").replace("<", "&lt;")
