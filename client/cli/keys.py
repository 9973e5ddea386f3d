"""`steersman keys ...`: entries for the keys file."""

import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any, Final

import typer
import yaml

from steersman.client.cli import show
from steersman.client.cli.options import Json, wants_json, with_examples
from steersman.client.errors import CliError, WrongUsage

app = typer.Typer(help="Make and check API keys.", no_args_is_help=True, rich_markup_mode="rich")
PREFIX: Final = "sk-steersman-"
"""Lets a scanner for leaked secrets recognise a key."""


@app.command(
    "new",
    help=with_examples(
        "Make a key, and its entry for the keys file. Needs no server.",
        """
        steersman keys new alice --scope infer --file keys.yaml
        steersman keys new ci --scope vectors:read --scope vectors:write --vectors 'team-a-*'
        """,
        after="The file has only the key's SHA-256. The key itself is shown this once: with --file "
        "on stdout; without it on stderr, and the entry on stdout. To change a key, put the new "
        "hash beside the old one, as a list, until everybody has the new key.",
    ),
)
def new(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Whose key it is; logs and metrics show it.")
    ],
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help="infer, vectors:read, vectors:write, metrics or admin.",
        ),
    ],
    vectors: Annotated[
        list[str] | None,
        typer.Option(
            "--vectors", metavar="PATTERN", help="Names it may see and use.  \\[default: *]"
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="Put the entry into this keys file."),
    ] = None,
    as_json: Json = False,
) -> None:
    """`steersman keys new`."""
    from steersman.server.auth.keyfile import hash_of, parse
    from steersman.server.auth.whole_yaml import Document

    key = PREFIX + secrets.token_urlsafe(32)
    entry: dict[str, Any] = {"name": name, "sha256": hash_of(key), "scopes": scope}
    if vectors:
        entry["vectors"] = vectors
    with _as_usage():
        parse(Document({"keys": [entry]}, None), "the new entry")
    if wants_json(ctx, as_json):
        show.print_json({"key": key, "entry": entry})
        return
    lines = yaml.safe_dump([entry], sort_keys=False, default_flow_style=None)
    if file is None:
        show.result(lines.rstrip())
        show.note(f"the key, which is shown only here: {key}")
    else:
        _append(file, lines)
        show.note(f"{name} is in {file}; the key, which is shown only here:")
        show.result(key)


@app.command(
    "check",
    help=with_examples(
        "Check a keys file as the server will read it, and list what is in it.",
        """
        steersman keys check keys.yaml
        """,
    ),
)
def check(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The file, or a directory of such.")],
    as_json: Json = False,
) -> None:
    """`steersman keys check`."""
    from steersman.server.auth.keyfile import read

    with _as_usage():
        found = {hashed.permissions.name: hashed.permissions for hashed in read(path).hashed}
    rows = [(r.name, " ".join(sorted(r.scopes)), " ".join(r.vectors)) for r in found.values()]
    if wants_json(ctx, as_json):
        show.print_json(
            [{"name": n, "scopes": s.split(), "vectors": v.split()} for n, s, v in rows]
        )
    else:
        show.table(("name", "scopes", "vectors"), rows)


def _append(file: Path, entry: str) -> None:
    """Add `entry` behind the others, with their indentation, and the end mark behind it. The rest
    of the file, its permission bits and a link to it stay unchanged. A crash leaves the old file or
    the new one."""
    from steersman.server.auth.keyfile import parse
    from steersman.server.auth.whole_yaml import END_MARK, NotWhole, load, without_end_mark
    from steersman.vectors.library.disk import replace

    file = file.resolve()
    try:
        old = file.read_text() if file.exists() else f"keys:\n{END_MARK}\n"
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"cannot read {file}: {error}", param="--file") from error
    with _as_usage():
        if file.exists():
            try:
                # A file that may be cut short is not to be marked as whole.
                load(old)
            except NotWhole as error:
                raise WrongUsage(f"{file} {error}") from None
    old = without_end_mark(old)
    if not old.endswith("\n"):
        old += "\n"
    first = next((line for line in old.splitlines() if line.lstrip().startswith("- ")), "")
    text = old + indent(entry, first[: len(first) - len(first.lstrip())]) + f"{END_MARK}\n"
    with _as_usage():
        try:
            parse(load(text), str(file))
        except NotWhole:
            raise WrongUsage(
                f"{file} is not `keys:` with a list below it; leave out --file, and put the entry "
                "into the file by hand"
            ) from None
    mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else None
    try:
        replace(file, text.encode(), mode=mode)
    except OSError as error:
        raise CliError(f"cannot write {file}: {error.strerror}", param="--file") from error


@contextmanager
def _as_usage() -> Iterator[None]:
    from steersman.server.auth.keyfile import KeysFileInvalid

    try:
        yield
    except KeysFileInvalid as error:
        raise WrongUsage(str(error)) from None
