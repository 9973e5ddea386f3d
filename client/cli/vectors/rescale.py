"""`steersman vectors rescale`: gives several vectors one length, so that their coefficients
compare."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from steersman.client.cli import show
from steersman.client.cli.options import Json, Key, Server, connection, wants_json, with_examples
from steersman.client.cli.vectors.transfer import fetch, send
from steersman.client.errors import WrongUsage
from steersman.vectors.digest import short

if TYPE_CHECKING:
    from steersman.vectors.file.format import SteeringVector

HELP = with_examples(
    "Rescale vectors, layer by layer, to the mean of their lengths, as the CAA paper does before "
    "it compares multipliers across behaviours. Each becomes a new vector, NAME-rescaled, with "
    "coefficient 1; the others stay as they are.",
    """
    steersman vectors rescale honest humble kind
    steersman vectors rescale honest kind@4f0c2a9d1b7e --json
    """,
)


def rescale_vectors(
    ctx: typer.Context,
    vector_ids: Annotated[
        list[str], typer.Argument(metavar="ID", help="Two or more: NAME or NAME@DIGEST.")
    ],
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman vectors rescale`."""
    asked = wants_json(ctx, as_json)
    names = [vector_id.partition("@")[0] for vector_id in vector_ids]
    if len(names) < 2 or len(set(names)) < len(names):
        raise WrongUsage("rescaling takes two or more vectors, each once", param="ID")
    from steersman.vectors.file.format import write_vector

    with connection(ctx, server, api_key) as client:
        found = [fetch(client, vector_id)[0] for vector_id in vector_ids]
        made = rescaled(dict(zip(names, found, strict=True)))
        done = [send(client, write_vector(vector), name) for name, vector in made.items()]
    if asked:
        show.print_json({"object": "list", "data": done})
    else:
        for vector in done:
            show.result(f"{vector['id']} is on the server: {vector['digest']}")


def rescaled(found: dict[str, "SteeringVector"]) -> dict[str, "SteeringVector"]:
    """New vectors, by their new names, from the vectors `found`, by name. Raises `WrongUsage`,
    `ActivationsInvalid`."""
    import torch

    from steersman.vectors.methods import rescale
    from steersman.vectors.tensors import tensor_name

    shapes = [{key: tuple(t.shape) for key, t in v.tensors.items()} for v in found.values()]
    if any(shape != shapes[0] for shape in shapes) or any(len(s) > 1 for s in shapes[0].values()):
        raise WrongUsage(
            "vectors that are rescaled together must have the same sites and layers, and one "
            "tensor at each, not one for each generation step",
            param="ID",
        )
    stacks = {name: torch.stack(list(v.tensors.values())) for name, v in found.items()}
    origin = [f"{name}@{short(v.digest)}" for name, v in found.items()]
    made = {}
    for name, directions in rescale(stacks).items():
        vector = found[name]
        tensors = dict(zip(vector.tensors, directions, strict=True))
        # What was measured of doses was so at the old lengths.
        kept = {key: value for key, value in vector.method_settings.items() if key != "quality"}
        made[f"{name}-rescaled"] = replace(
            vector,
            tensors=tensors,
            name=f"{name}-rescaled",
            method_settings=kept | {"rescaled": origin},
            coefficient=1.0,
            safe_range=None,
            norms={tensor_name(key): float(t.norm()) for key, t in tensors.items()},
        )
    return made
