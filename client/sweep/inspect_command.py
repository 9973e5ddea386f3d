"""`steersman vectors inspect`: norms, neighbours and tokens of a vector."""

from pathlib import Path
from typing import Annotated, Any

import typer

from steersman.client import paths
from steersman.client.cli import show
from steersman.client.cli.options import Json, Key, Server, connection, wants_json, with_examples
from steersman.client.sweep import figure, report
from steersman.vectors.digest import short

HELP = with_examples(
    "Look into a vector without generating text: norms, the dose of coefficient 1, the tokens it "
    "raises and lowers most (logit lens), the most similar vectors of the library.",
    """
    steersman vectors inspect cheerful
    steersman vectors inspect cheerful --all --count 30
    steersman vectors inspect cheerful --out .      JSON and PNG
    steersman vectors inspect cheerful --json | jq '.tensors[0].top_tokens'
    """,
)
_TOKENS, _SIMILAR = 5, 3
"""How many of each a row of the table shows; the JSON has all that were asked for."""


def inspect(
    ctx: typer.Context,
    vector: Annotated[str, typer.Argument(help="A vector of the server's library.")],
    count: Annotated[
        int, typer.Option(min=1, max=100, help="Tokens and similar vectors of each layer.")
    ] = 10,
    every: Annotated[
        bool, typer.Option("--all", help="Show every layer, not only the default ones.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write inspect-VECTOR.json and .png there."),
    ] = None,
    draw: Annotated[bool, typer.Option("--figure/--no-figure", help="Draw the PNG.")] = True,
    server: Server = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman vectors inspect`."""
    as_json = wants_json(ctx, as_json)
    if out is not None and draw:
        figure.plotter()
    with connection(ctx, server, key) as client:
        found = client.get(f"{paths.vector(vector)}/inspect", count=count)
    if out is not None:
        json_path, png_path = report.targets(out, f"inspect-{found['id']}")
        report.write_json(json_path, found)
        if draw:
            figure.draw_inspection(png_path, found)
        show.note(f"wrote {json_path}{f' and {png_path}' if draw else ''}")
    if as_json:
        show.print_json(found)
    else:
        _print_table(found, every)


def _print_table(found: dict[str, Any], every: bool) -> None:
    shown = [tensor for tensor in found["tensors"] if every or tensor["default"]]
    rows = [
        (
            tensor["name"],
            show.number(tensor["norm"]),
            show.number(tensor["relative_norm"]),
            _tokens(tensor["top_tokens"]),
            _tokens(tensor["bottom_tokens"]),
            ", ".join(f"{s['id']} {s['cosine']:+.2f}" for s in tensor["similar"][:_SIMILAR]),
        )
        for tensor in shown
    ]
    show.table(
        ("tensor", "norm", "dose at 1", "raises", "lowers", "similar"),
        rows,
        title=f"{found['id']} ({short(found['digest'])}), coefficient {found['coefficient']:g}",
        numbers=("norm", "dose at 1"),
    )
    if found.get("not_recommended"):
        show.note(f"its extraction recommends no dose: {found['not_recommended']}")
    hidden = len(found["tensors"]) - len(shown)
    if hidden:
        show.note(f"{hidden} more layers: --all")
    if found["not_compared"]:
        show.note(f"{found['not_compared']} other vectors were not compared")


def _tokens(tokens: list[dict[str, Any]]) -> str:
    return " ".join(repr(token["text"]) for token in tokens[:_TOKENS])
