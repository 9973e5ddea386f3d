"""Options of every client command, which may stand before or behind the command's name."""

import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import dedent
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

if TYPE_CHECKING:
    from steersman.client.http import Client

DEFAULT_SERVER: Final = "http://127.0.0.1:8000"

PANEL: Final = "Connection and output"
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        rich_help_panel=PANEL,
        help=f"The server.  \\[env: STEERSMAN_SERVER; default: {DEFAULT_SERVER}]",
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        rich_help_panel=PANEL,
        help="Its key.  \\[env: STEERSMAN_API_KEY; on this machine also OPENAI_API_KEY]",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        rich_help_panel=PANEL,
        help="JSON on stdout and nothing else there; messages go to stderr.",
    ),
]


@dataclass
class Common:
    """The three options that stood before the command's name. `json` is also set when the command's
    own --json is read, so that errors are printed in that form."""

    server: str | None = None
    key: str | None = None
    json: bool = False


def common(ctx: typer.Context) -> Common:
    """The options that stood before the name of `ctx`'s command."""
    found = ctx.find_root().ensure_object(Common)
    assert found is not None
    return found


def wants_json(ctx: typer.Context, as_json: bool) -> bool:
    """Whether `--json` was given, before the command's name or (`as_json`) behind it."""
    shared = common(ctx)
    shared.json = shared.json or as_json
    return shared.json


def address(ctx: typer.Context, server: str | None) -> str:
    """The server's URL without `/v1`: from `server`, the option before the command, the
    environment, or the default."""
    url = server or common(ctx).server or os.environ.get("STEERSMAN_SERVER") or DEFAULT_SERVER
    url = url if "://" in url else f"http://{url}"
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def api_key(ctx: typer.Context, key: str | None, url: str) -> str | None:
    """The key for the server at `url`: `key`, the option before the command, or the environment;
    None if there is none.

    `OPENAI_API_KEY` may be the key of an account at OpenAI, so it is sent only to this machine.
    """
    environment = os.environ.get("STEERSMAN_API_KEY")
    if not environment and is_loopback(url):
        environment = os.environ.get("OPENAI_API_KEY")
    return key or common(ctx).key or environment or None


def is_loopback(url: str) -> bool:
    """Whether `url` is a loopback address or `localhost`. No name is looked up, because another
    machine decides what it stands for."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def connection(ctx: typer.Context, server: str | None, key: str | None) -> Iterator["Client"]:
    """A client of the server that options and environment name."""
    from steersman.client.http import Client

    url = address(ctx, server)
    with Client(url, api_key(ctx, key, url)) as client:
        yield client


def with_examples(summary: str, examples: str, *, after: str = "") -> str:
    """`summary`, then the examples line by line, then `after`, in rich's markup."""
    lines = dedent(examples).strip()
    # A backspace keeps typer from filling the lines of its paragraph.
    shown = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines.splitlines())
    return "\n\n".join(part for part in (summary, shown, after) if part).replace("[", "\\[")
