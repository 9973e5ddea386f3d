"""The commands, and what they share: options, errors, exit status."""

import importlib
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from steersman.client.chat import command as chat
from steersman.client.cli import jobs, keys, patch, presets
from steersman.client.cli import vectors as vectors_group
from steersman.client.cli.options import Common, Json, Key, Server, with_examples
from steersman.client.errors import INTERRUPTED, CliError


class CommandGroup(TyperGroup):
    """A group that prints the errors of its commands and exits with the status of each. Any other
    exception is a bug."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        from steersman.vectors.errors import SteersmanError

        try:
            return super().invoke(ctx)
        except CliError as error:
            failure = error
        except SteersmanError as error:
            failure = CliError(error.message, param=error.param, code=error.code)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        from steersman.client.cli import show

        show.error(failure, ctx.ensure_object(Common).json)
        raise typer.Exit(failure.exit_code)


app = typer.Typer(
    name="steersman",
    cls=CommandGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(vectors_group.app, name="vectors")
app.add_typer(presets.app, name="presets")
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")
app.command("chat", help=chat.HELP, short_help=chat.SHORT)(chat.chat)
app.command("patch", help=patch.HELP, short_help=patch.SHORT)(patch.patch)

_WHOLE = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "allow_interspersed_args": False,
}
"""For a command that passes on all of its arguments as they are."""


def run(args: Sequence[str]) -> int:
    """Run `args`; returns the exit status."""
    try:
        app(args=list(args), prog_name="steersman")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"steersman {version('steersman')}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    help=with_examples(
        "Serve a language model whose every request can be steered, and talk to such a server.",
        """
        steersman serve --demo          prepare and serve the demo model
        steersman chat                  talk to it; /steer cheerful 1.5
        steersman vectors list          what can be steered
        steersman --server http://gpu1:8000 --api-key KEY jobs list
        """,
        after="Exit status: 0 done, 1 the server refused or failed, 2 wrong usage, "
        "3 no server answers, 130 interrupted.",
    ),
)
def _root(
    ctx: typer.Context,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """Store the options that stand before the command's name."""
    ctx.obj = Common(server, api_key, as_json)
    if ctx.invoked_subcommand is None:
        ctx.get_help()  # Prints it, since typer draws help with rich.
        raise typer.Exit(2)


@app.command(
    "serve",
    add_help_option=False,
    context_settings=_WHOLE,
    help="Serve a model behind the OpenAI API; each request may steer it.",
)
def _serve(ctx: typer.Context) -> None:
    """Call the launcher, which has argparse and vLLM's options."""
    from steersman.client.launch.serve import serve

    raise typer.Exit(serve(ctx.args))


@app.command(
    "sweep",
    add_help_option=False,
    context_settings=_WHOLE,
    help="Measure behaviour against fluency over coefficients and layers.",
)
def _sweep(ctx: typer.Context) -> None:
    """Call the sweep."""
    hand_over(ctx, "sweep")


@vectors_group.app.command(
    "inspect",
    add_help_option=False,
    context_settings=_WHOLE,
    help="Look into a vector: norms, neighbours, tokens it points at.",
)
def _inspect(ctx: typer.Context) -> None:
    """Call the inspection."""
    hand_over(ctx, "vectors", "inspect")


LAZY: Final = {
    ("sweep",): ("steersman.client.sweep.command", "sweep"),
    ("vectors", "inspect"): ("steersman.client.sweep.inspect_command", "inspect"),
}
"""Commands whose imports are heavy: by their words, the module and its function."""


def load_command(*path: str) -> Any:
    """The click command of `path`, one of `LAZY`, with its module's `HELP`. The module is imported
    by this call."""
    module, function = LAZY[path]
    found = importlib.import_module(module)
    lone = typer.Typer(add_completion=False, rich_markup_mode="rich")
    lone.command(path[-1], help=found.HELP)(getattr(found, function))
    return typer.main.get_command(lone)


def hand_over(ctx: typer.Context, *path: str) -> None:
    """Run the command of `path`, one of `LAZY`, with the arguments of `ctx`."""
    command = load_command(*path)
    with command.make_context(ctx.info_name, ctx.args, parent=ctx.parent) as own:
        command.invoke(own)
