"""`steersman patch`: activation patching on the server, and its table."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from steersman.client import paths
from steersman.client.cli import parse, show
from steersman.client.cli.options import Json, Key, Server, connection, wants_json, with_examples
from steersman.client.cli.watch import check_succeeded, show_texts, watch
from steersman.client.errors import WrongUsage

SHORT: Final = "Find where the model decides between two answers, by activation patching."
HELP: Final = with_examples(
    "Find where the model decides between two answers, by activation patching.\n\n"
    "Each run puts the stream of one prompt, at one layer and token, into the other prompt, and "
    "measures log p(first answer) - log p(second answer). Both prompts need as many tokens. "
    "Ctrl-C cancels the job.",
    """
    steersman patch "The capital of France is" "The capital of Italy is" " Paris" " Rome"
    steersman patch "The capital of France is" "The capital of Italy is" " Paris" " Rome" \\
      --site attn_out --layers 8-20 --heat-map map.png
    """,
)
_MOST_SHOWN: Final = 10


def patch(
    ctx: typer.Context,
    clean: Annotated[str, typer.Argument(help="A prompt after which the first answer is likely.")],
    corrupted: Annotated[
        str, typer.Argument(help="The same with what matters changed: the second answer is likely.")
    ],
    answer: Annotated[str, typer.Argument(help="With the space before it, as in ' Paris'.")],
    other: Annotated[str, typer.Argument(help="The second answer.")],
    site: Annotated[str, typer.Option(help="Where to patch.")] = "resid_post",
    layers: Annotated[
        str | None, typer.Option(metavar="8-20,25", help="Blocks.  \\[default: all]")
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="START:STOP",
            help="Tokens that are patched; negative counts from the end.  \\[default: from the "
            "first that differs]",
        ),
    ] = None,
    direction: Annotated[
        list[str] | None,
        typer.Option(help="denoising or noising; once for each.  \\[default: both]"),
    ] = None,
    heat_map: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the table as a picture, a PNG.")
    ] = None,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman patch`."""
    asked = wants_json(ctx, as_json)
    chosen = parse.layers(layers)
    with connection(ctx, server, api_key) as client:
        if chosen is None:
            chosen = list(range(client.get(paths.CAPABILITIES)["num_layers"]))
        body = {
            "clean": clean,
            "corrupted": corrupted,
            "answers": [answer, other],
            "hook_points": [f"{site}.{layer}" for layer in chosen],
            "tokens": _range(tokens),
            **({"directions": direction} if direction else {}),
        }
        job = client.post(paths.PATCH, json=body)
        show.note(f"{job['id']}: Ctrl-C cancels it")
        job = watch(client, job, cancel=True)
        show_texts(job)
        check_succeeded(job)
        picture = None if heat_map is None else client.content(paths.heat_map(job["id"]))
    if heat_map is not None and picture is not None:
        heat_map.write_bytes(picture)
        show.note(f"wrote {heat_map}")
    if asked:
        show.print_json(job)
    else:
        _show(job["patch"])


def _range(text: str | None) -> dict[str, int | None] | None:
    if text is None:
        return None
    start, _, stop = text.partition(":")
    try:
        return {"start": int(start or 0), "stop": int(stop) if stop else None}
    except ValueError:
        raise WrongUsage(
            f"{text!r} is not a range of tokens",
            param="--tokens",
            remedy="write START:STOP, as in 3:9 or -4:",
        ) from None


def _show(table: dict[str, Any]) -> None:
    show.fields([("clean", f"{table['clean']:.3f}"), ("corrupted", f"{table['corrupted']:.3f}")])
    for direction in ("denoising", "noising"):
        if (effects := table.get(direction, {}).get("effect")) is None:
            continue
        cells = [
            (effect, point, column)
            for point, row in zip(table["hook_points"], effects, strict=True)
            for column, effect in enumerate(row)
        ]
        cells.sort(key=lambda cell: -abs(cell[0]))
        show.note(f"{direction}: the largest of {len(cells)} effects (1 is the whole difference)")
        show.table(
            ("hook point", "token", "clean", "corrupted", "effect"),
            [
                (
                    point,
                    str(table["positions"][column]),
                    repr(table["tokens"]["clean"][column]),
                    repr(table["tokens"]["corrupted"][column]),
                    f"{effect:.2f}",
                )
                for effect, point, column in cells[:_MOST_SHOWN]
            ],
            numbers=("token", "effect"),
        )
