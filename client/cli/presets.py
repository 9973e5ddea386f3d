"""`steersman presets ...`: steering by name."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from steersman.client import paths
from steersman.client.cli import parse, show
from steersman.client.cli.options import Json, Key, Server, connection, wants_json, with_examples
from steersman.client.errors import WrongUsage

app = typer.Typer(
    help="List, show, make, change and delete presets: names that requests use as the model "
    "MODEL:NAME.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The preset's name.")]
Steer = Annotated[
    list[str] | None,
    typer.Argument(metavar="VECTOR=C...", help="Vectors, each with its coefficient or its own."),
]
Whole = Annotated[
    Path | None,
    typer.Option("--file", metavar="JSON", help="A file with a whole `steering` value."),
]
Follow = Annotated[
    bool | None,
    typer.Option(
        "--follow/--pin",
        help="At each request, use the vectors that the names stand for then; or keep to those "
        "that they stand for now (the default).",
    ),
]
Description = Annotated[str | None, typer.Option(metavar="TEXT")]


@app.command(
    "list",
    help=with_examples(
        "List presets, by name.",
        """
        steersman presets list
        steersman presets list --json | jq -r '.data[].name'
        """,
    ),
)
def list_presets(
    ctx: typer.Context, server: Server = None, api_key: Key = None, as_json: Json = False
) -> None:
    """`steersman presets list`."""
    asked = wants_json(ctx, as_json)
    with connection(ctx, server, api_key) as client:
        found = client.get(paths.PRESETS)
    if asked:
        show.print_json(found)
    elif not found["data"]:
        show.note("there are no presets; `steersman presets create` makes one")
    else:
        show.table(
            ("name", "vectors", "kept", "description"),
            [
                (one["name"], _vectors(one), _kept(one), one["description"] or "-")
                for one in found["data"]
            ],
        )


@app.command(
    "show",
    help=with_examples(
        "Show a preset.",
        """
        steersman presets show sunny
        """,
    ),
)
def show_preset(
    ctx: typer.Context,
    name: Name,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman presets show`."""
    asked = wants_json(ctx, as_json)
    with connection(ctx, server, api_key) as client:
        found = client.get(paths.preset(name))
    _show(found, asked)


@app.command(
    "create",
    help=with_examples(
        "Make a preset out of vectors with their coefficients, or out of a file with a whole "
        "`steering` value.",
        """
        steersman presets create sunny cheerful=1.5 formal=-0.5
        steersman presets create careful --file steering.json --description 'for tickets'
        steersman presets create latest cheerful --follow
        """,
    ),
)
def create_preset(
    ctx: typer.Context,
    name: Name,
    steer: Steer = None,
    file: Whole = None,
    follow: Follow = None,
    description: Description = None,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman presets create`."""
    asked = wants_json(ctx, as_json)
    steering = _steering(steer, file)
    if steering is None:
        raise WrongUsage(
            "nothing says how the preset steers",
            param="VECTOR=C",
            remedy="name vectors, as in cheerful=1.5, or a file with --file",
        )
    body = {
        "name": name,
        "steering": steering,
        "follow": bool(follow),
        "description": description or "",
    }
    with connection(ctx, server, api_key) as client:
        made = client.post(paths.PRESETS, json=body)
    _show(made, asked)


@app.command(
    "set",
    help=with_examples(
        "Change what a preset stands for, or its description. Its older versions stay listed.",
        """
        steersman presets set sunny cheerful=2
        steersman presets set sunny --follow
        steersman presets set sunny --description 'warm and short'
        """,
    ),
)
def set_preset(
    ctx: typer.Context,
    name: Name,
    steer: Steer = None,
    file: Whole = None,
    follow: Follow = None,
    description: Description = None,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman presets set`."""
    asked = wants_json(ctx, as_json)
    change = {
        "steering": _steering(steer, file),
        "follow": follow,
        "description": description,
    }
    change = {key: value for key, value in change.items() if value is not None}
    if not change:
        raise WrongUsage(
            "there is nothing to change",
            param="VECTOR=C",
            remedy="name vectors, or give --file, --follow, --pin or --description",
        )
    with connection(ctx, server, api_key) as client:
        changed = client.patch(paths.preset(name), change)
    _show(changed, asked)


@app.command(
    "apply",
    help=with_examples(
        "Make or change presets to match a file, JSON or YAML. It has, under the name of each "
        "preset, `steering` and, if wanted, `follow` and `description`.",
        """
        steersman presets apply presets.yaml
        """,
    ),
)
def apply_presets(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The presets, by name.")],
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman presets apply`."""
    asked = wants_json(ctx, as_json)
    wanted = _wanted(file)
    done = []
    with connection(ctx, server, api_key) as client:
        there = {one["name"]: one for one in client.get(paths.PRESETS)["data"]}
        for name, preset in wanted.items():
            if name in there:
                done.append(client.patch(paths.preset(name), preset))
            else:
                done.append(client.post(paths.PRESETS, json={"name": name, **preset}))
            if not asked:
                show.result(f"{name} is {'changed' if name in there else 'made'}")
    if asked:
        show.print_json({"object": "list", "data": done})


@app.command(
    "delete",
    help=with_examples(
        "Delete a preset. Its vectors stay.",
        """
        steersman presets delete sunny
        """,
    ),
)
def delete_preset(
    ctx: typer.Context,
    name: Name,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman presets delete`."""
    asked = wants_json(ctx, as_json)
    with connection(ctx, server, api_key) as client:
        gone = client.delete(paths.preset(name))
    if asked:
        show.print_json(gone)
    else:
        show.result(f"{gone['name']} is deleted")


def _steering(steer: list[str] | None, file: Path | None) -> Any:
    """The `steering` value that the arguments give; None if they give none."""
    if file is None:
        return {"vectors": parse.steering(steer)} if steer else None
    if steer:
        raise WrongUsage("vectors and --file both say how the preset steers", param="--file")
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise WrongUsage(f"{file} cannot be read as JSON: {error}", param="--file") from error


def _wanted(file: Path) -> dict[str, dict[str, Any]]:
    """The presets in `file`, by name: bodies without the name. Raises `WrongUsage`."""
    import yaml

    try:
        # JSON is YAML.
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise WrongUsage(f"{file} cannot be read: {error}", param="FILE") from error
    if not isinstance(said, dict) or not all(
        isinstance(one, dict) and "steering" in one for one in said.values()
    ):
        raise WrongUsage(
            f"{file} does not have a preset under each name",
            param="FILE",
            remedy="write it as {sunny: {steering: {vectors: {cheerful: 1.5}}}}",
        )
    return {str(name): {"follow": False, "description": "", **one} for name, one in said.items()}


def _show(preset: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show.print_json(preset)
        return
    show.fields(
        [
            ("name", preset["name"]),
            ("vectors", _vectors(preset)),
            ("kept", _kept(preset)),
            ("description", preset["description"] or "-"),
            ("steering", json.dumps(preset["steering"])),
            ("versions", len(preset["versions"])),
        ]
    )


def _vectors(preset: dict[str, Any]) -> str:
    uses = preset["steering"]["vectors"]
    return ", ".join(f"{use['id']} {show.number(use.get('coefficient'))}" for use in uses)


def _kept(preset: dict[str, Any]) -> str:
    return "follows the names" if preset["follow"] else "pinned"
