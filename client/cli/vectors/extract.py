"""`steersman vectors extract`: makes a vector on the server, and shows the job's progress."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steersman.client import paths
from steersman.client.cli import parse, show
from steersman.client.cli.options import Json, Key, Server, connection, wants_json, with_examples
from steersman.client.cli.vectors.quality import quality_table
from steersman.client.cli.vectors.texts import Texts, read_texts
from steersman.client.cli.vectors.transfer import Replace, move_to_name, name_beside
from steersman.client.cli.watch import check_succeeded, show_texts, watch
from steersman.client.errors import Refused, WrongUsage
from steersman.vectors.digest import short

if TYPE_CHECKING:
    from steersman.client.http import Client

HELP = with_examples(
    "Make a vector on the served model, from texts that differ in what the vector is to change.\n\n"
    "Methods: mean_difference and probe (two sides of texts), caa and repe (pairs), style (two or "
    "more styles; makes NAME-STYLE of each), per_step (two sides, a vector for each generated "
    "token), act_linear and act_mean (two sides, maps from the negative to the positive), "
    "cast_condition (two sides of prompts, the gate that tells them apart), directional_ablation "
    "(two sides of prompts, the direction without which the model does no longer what the first "
    "call for).\n\n"
    "Text files are UTF-8, one text a line. JSONL lines are "
    '{"positive": TEXT, "negative": TEXT} or {"text": TEXT, "label": SIDE_OR_STYLE}, TEXT a '
    "string or a list of chat messages. Ctrl-C cancels the job.",
    """
    steersman vectors extract glad --method mean_difference \\
      --positive glad.txt --negative sad.txt
    steersman vectors extract honest --method caa --pairs qa.jsonl --layers 8-20
    steersman vectors extract tone --method style --styles texts/
    steersman vectors extract glad --method mean_difference --replace \\
      --positive better.txt --negative sad.txt
    steersman vectors extract kind --method probe --pairs p.jsonl --set c=0.1
    """,
)
_READABLE: dict[str, Any] = {"exists": True, "dir_okay": False, "metavar": "FILE"}
_TEXTS = "Texts"
_HOW = "How"


def extract(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The vector's name.")],
    method: Annotated[str, typer.Option(metavar="METHOD", help="The method: one of those above.")],
    replace: Replace = False,
    pairs: Annotated[
        Path | None, typer.Option(help="JSONL file of pairs.", rich_help_panel=_TEXTS, **_READABLE)
    ] = None,
    positive: Annotated[
        Path | None,
        typer.Option(
            help="File of texts with what the vector is to add.",
            rich_help_panel=_TEXTS,
            **_READABLE,
        ),
    ] = None,
    negative: Annotated[
        Path | None,
        typer.Option(
            help="File of texts that show the opposite.", rich_help_panel=_TEXTS, **_READABLE
        ),
    ] = None,
    styles: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            metavar="DIR_OR_FILE",
            rich_help_panel=_TEXTS,
            help="A folder of STYLE.txt files; or one such file, with the option once for each; "
            "or a JSONL file.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TEXTS,
            help="Read the texts as answers to this, in the chat template.  \\[default: as they "
            "are]",
        ),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_HOW,
            help="Which tokens are read: last, answer, mean, steps, prompt or template.  "
            "\\[default: the method's; of plain texts the mean, of questions the last]",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(rich_help_panel=_HOW, metavar="8-20,25", help="Blocks.  \\[default: all]"),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(rich_help_panel=_HOW, help="Where to read.  \\[default: the method's]"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            rich_help_panel=_HOW,
            metavar="KEY=VALUE",
            help="A setting of the method; repeat the option for several.",
        ),
    ] = None,
    unit_dose: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_HOW,
            metavar="D",
            help="Scale each layer so that coefficient 1 has this relative dose there.  "
            "\\[default: the method's own lengths]",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=_HOW, help="per_step: number of generated tokens."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(rich_help_panel=_HOW, help="Seed of the splits on which quality is measured."),
    ] = None,
    reproducible: Annotated[
        bool,
        typer.Option(
            "--reproducible",
            rich_help_panel=_HOW,
            help="Capture one text at a time: slower, and gives the same bytes each time on "
            "one machine.",
        ),
    ] = False,
    description: Annotated[str | None, typer.Option(help="Kept with the vector.")] = None,
    licence: Annotated[str | None, typer.Option(help="Kept with the vector.")] = None,
    created_at: Annotated[
        str | None, typer.Option(help="ISO 8601, kept with it.  \\[default: now]")
    ] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Start the job, print its id, and exit.")
    ] = False,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman vectors extract`."""
    asked = wants_json(ctx, as_json)
    if replace and no_wait:
        raise WrongUsage(
            "--replace needs the vector that the job makes",
            param="--replace",
            remedy="leave out --no-wait",
        )
    texts = read_texts(pairs, positive, negative, styles or [])
    body = {
        "method": method,
        "name": name,
        "prompt": prompt,
        "tokens": tokens,
        "layers": parse.layers(layers),
        "site": site,
        "settings": parse.settings(settings or []),
        "unit_dose": unit_dose,
        "steps": steps,
        "seed": seed,
        "reproducible": reproducible,
        "description": description,
        "licence": licence,
        "created_at": created_at,
    }
    with connection(ctx, server, api_key) as client:
        body = {k: v for k, v in body.items() if v is not None}
        beside = None
        try:
            job = _start(client, body, texts)
        except Refused as refused:
            if not replace or refused.code != "vector_exists":
                raise
            # What is there answers requests until the new one is made.
            beside = name_beside(name)
            job = _start(client, body | {"name": beside}, texts)
        if no_wait:
            if asked:
                show.print_json(job)
            else:
                show.result(job["id"])
            return
        show.note(f"{job['id']}: Ctrl-C cancels it")
        job = watch(client, job, cancel=True)
        _bad_rows(job)
        show_texts(job)
        check_succeeded(job)
        made = [client.vector(vector_id) for vector_id in job["vectors"]]
        if beside is not None:
            # Of styles, NAME-STYLE for each.
            made = [move_to_name(client, v, name + v["id"].removeprefix(beside)) for v in made]
    if asked:
        show.print_json({"job": job, "vectors": made})
        return
    for vector in made:
        quality_table(vector)
        show.result(f"made {vector['id']}@{short(vector['digest'])}")


def _start(client: "Client", body: dict[str, Any], texts: Texts) -> dict[str, Any]:
    if texts.lines is None:
        return dict(client.post(paths.EXTRACT, json=body | texts.body))
    files = {"file": ("texts.jsonl", texts.lines)}
    return dict(client.post(paths.EXTRACT, data={"request": json.dumps(body)}, files=files))


def _bad_rows(job: dict[str, Any]) -> None:
    for row in job["bad_rows"][:10]:
        show.note(f"left out: row {row['row']} ({row['label'] or 'no side'}) {row['reason']}")
    if len(job["bad_rows"]) > 10:
        show.note(f"and {len(job['bad_rows']) - 10} more; see `steersman jobs show {job['id']}`")
