"""`steersman sweep`: finds a coefficient and layers for a vector."""

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from steersman.client import paths
from steersman.client.cli import show
from steersman.client.cli.options import (
    Json,
    Key,
    Server,
    address,
    api_key,
    connection,
    wants_json,
    with_examples,
)
from steersman.client.errors import CliError
from steersman.client.http import Client
from steersman.client.sweep import figure, report
from steersman.client.sweep.ask import Asker
from steersman.client.sweep.grid import (
    default_coefficients,
    default_layers,
    grid,
    parse_coefficients,
    parse_layers,
)
from steersman.client.sweep.http import connect
from steersman.client.sweep.measures import Measure, make_measure
from steersman.client.sweep.pick import pick, why_nothing
from steersman.client.sweep.progress import answers_progress
from steersman.client.sweep.prompts import PROMPTS, read_prompts
from steersman.client.sweep.run import CellResult
from steersman.client.sweep.run import sweep as run_sweep
from steersman.vectors.digest import short

ASKS_ABOVE_S: Final = 60.0
HELP = with_examples(
    "Try coefficients and layers: behaviour against fluency; pick the best that is fluent.\n\n"
    "In each cell the steered server answers the same prompts, a measure judges the answers, and "
    "the unsteered model scores their perplexity. After the unsteered cell it prints how "
    "long the others take and, above a minute, asks whether to continue (not with --yes). It picks "
    "only a cell that is distinguishable from unsteered. Read some of the answers, too: they are "
    "in sweep-VECTOR.json, which is written at the end.\n\n"
    "Measures: vader (sentiment), language:CODE, regex:PATTERN (matches in 100 words), logodds "
    "(of two first tokens), judge (0 to 10 from another model; its key in "
    "STEERSMAN_JUDGE_API_KEY). vader and language need `pip install '.[measure]'`, as the "
    "figure does.",
    """
    steersman sweep cheerful
    steersman sweep cheerful --layers 12,14+16 --coefficients=-4:4:1 --write
    steersman sweep french --measure language:fr --prompts questions.txt
    steersman sweep humble --measure 'regex:(?i)of course' --lower --no-figure
    steersman sweep kind --measure 'judge:http://judge:8001/v1|qwen|Is it kind?'
    """,
)


def sweep(
    ctx: typer.Context,
    vector: Annotated[str, typer.Argument(help="A vector of the server's library.")],
    measure: Annotated[
        str,
        typer.Option(
            metavar="NAME[:ARGUMENT]",
            help="The behaviour: vader, language:fr, regex:PATTERN, "
            "'logodds:\"Yes\",\"No\"' or 'judge:URL|model|question'.",
        ),
    ] = "vader",
    coefficients: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="-1,0.5,2, or -2:2:0.5 (from, to, step); default: half, once and twice its own, "
            "both ways.",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS",
            help="8,12 or 8-12: each alone; 14+16: both at once; default: its own, and four more.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A prompt a line, or .jsonl; default: 16 neutral ones."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 48,
    parallel: Annotated[int, typer.Option(min=1, help="Answers in flight at once.")] = 16,
    lower: Annotated[bool, typer.Option("--lower", help="The lowest measure is the best.")] = (
        False
    ),
    write: Annotated[
        bool,
        typer.Option(
            "--write", help="Write the picked coefficient, layers and safe range to the vector."
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where sweep-VECTOR.json and .png are written.")
    ] = Path(),
    draw: Annotated[bool, typer.Option("--figure/--no-figure", help="Draw the PNG.")] = True,
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Do not ask whether to continue, however long it takes."),
    ] = False,
    server: Server = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman sweep`."""
    as_json = wants_json(ctx, as_json)
    wanted = make_measure(measure)
    asked = PROMPTS if prompts is None else read_prompts(prompts)
    numbers = None if coefficients is None else parse_coefficients(coefficients)
    sets = None if layers is None else parse_layers(layers)
    if draw:
        figure.plotter()
    with connection(ctx, server, key) as client:
        entry = client.vector(vector)
        model = client.get(paths.CAPABILITIES)["model"]
        json_path, png_path = report.targets(out, f"sweep-{entry['id']}")
        numbers = numbers or default_coefficients(entry["coefficient"])
        available = [tensor["layer"] for tensor in entry["tensors"]]
        sets = sets or default_layers(entry["layers"], available)
        _check_layers(sets, available)
        cells = len(grid(sets, numbers))
        started = time.monotonic()
        results = asyncio.run(
            _run(
                (url := address(ctx, server), api_key(ctx, key, url)),
                _asker_of(entry, model, max_tokens),
                wanted,
                (sets, numbers, asked),
                parallel,
                cells,
                yes,
            )
        )
        seconds = time.monotonic() - started
        picked = pick(results, lower=lower)
        found = report.to_json(
            results,
            picked,
            vector=entry["id"],
            digest=entry["digest"],
            model=model,
            measure=measure,
            label=wanted.label,
            lower=lower,
            prompts=list(asked),
            max_tokens=max_tokens,
            seconds=round(seconds, 2),
            reason=None if picked is not None else why_nothing(results, lower=lower),
        )
        report.write_json(json_path, found)
        if draw:
            figure.draw_sweep(png_path, results, picked, wanted.label)
        if as_json:
            show.print_json(found)
        else:
            report.print_table(results, picked, f"{entry['id']}: {wanted.label}")
        show.note(f"{cells} cells, {cells * len(asked)} answers in {seconds:.0f} s")
        show.note(f"wrote {json_path}{f' and {png_path}' if draw else ''}")
        if picked is None:
            show.note(f"{why_nothing(results, lower=lower)}: nothing is picked")
            if write:
                raise CliError("nothing was picked, so nothing was written to the vector")
            return
        wanted_patch = report.patch_of(picked)
        show.note(
            f"picked coefficient {wanted_patch['coefficient']:g} at layers "
            f"{show.layers(wanted_patch['layers'])}, safe range "
            f"{picked.safe_range[0]:g} to {picked.safe_range[1]:g}"
        )
        if write:
            changed = _patch(client, entry, wanted_patch)
            show.note(f"wrote them to {changed['id']}: now {short(changed['digest'])}")


def _asker_of(entry: dict[str, Any], model: str, max_tokens: int) -> dict[str, Any]:
    version = short(entry["digest"], 16)
    return {
        "model": model,
        "vector": f"{entry['id']}@{version}",
        "digest": entry["digest"],
        "max_tokens": max_tokens,
    }


async def _run(
    where: tuple[str, str | None],
    about: dict[str, Any],
    measure: Measure,
    what: tuple[Sequence[tuple[int, ...]], Sequence[float], Sequence[str]],
    parallel: int,
    cells: int,
    yes: bool,
) -> list[CellResult]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(connect(*where))
        bar = stack.enter_context(answers_progress(cells * len(what[2])))

        def unsteered(seconds: float, left: int) -> None:
            with bar.pause():
                confirm_duration(seconds * left / len(what[2]), left, yes=yes)

        return await run_sweep(
            Asker(http=http, **about),
            measure,
            *what,
            parallel=parallel,
            on_answer=bar.advance,
            on_unsteered=unsteered,
        )


def confirm_duration(seconds: float, answers: int, *, yes: bool) -> None:
    """Print how long the steered answers will take, estimated from the unsteered ones. Above a
    minute, ask at the terminal whether to continue. Raises `CliError` if the answer is no."""
    length = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    show.note(f"{answers} answers more, about {length}")
    if seconds <= ASKS_ABOVE_S or yes:
        return
    if not sys.stdin.isatty():
        raise CliError(
            f"this sweep takes about {length}, and there is no terminal to confirm that",
            param="--yes",
            remedy="give --yes, or fewer --layers, --coefficients or prompts",
        )
    if not typer.confirm("Go on?", default=True, err=True):
        raise CliError("stopped before the steered answers; nothing was written")


def _check_layers(sets: Sequence[tuple[int, ...]], available: Sequence[int]) -> None:
    """Raise `CliError` for a layer that the vector does not have, before any work is done."""
    missing = sorted({layer for layers in sets for layer in layers} - set(available))
    if missing:
        raise CliError(
            f"the vector has no layer {', '.join(map(str, missing))}; it has "
            f"{show.layers(sorted(set(available)))}",
            param="--layers",
        )


def _patch(client: Client, entry: dict[str, Any], body: dict[str, Any]) -> Any:
    if client.vector(entry["id"])["digest"] != entry["digest"]:
        raise CliError(
            f"{entry['id']} was changed while it was swept, so nothing was written to it"
        )
    return client.patch(paths.vector(entry["id"]), body)
