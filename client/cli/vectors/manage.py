"""`steersman vectors set`, `rename` and `compare`."""

from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steersman.client import paths
from steersman.client.cli import parse, show
from steersman.client.cli.options import Json, Key, Server, connection, wants_json, with_examples
from steersman.client.cli.vectors.transfer import fetch, send
from steersman.client.errors import CliError, Refused, WrongUsage
from steersman.vectors.digest import short

if TYPE_CHECKING:
    from steersman.vectors.file.format import SteeringVector

SET_HELP = with_examples(
    "Change a vector's defaults, its description, or which version its name stands for.",
    """
    steersman vectors set cheerful --coefficient 1.2
    steersman vectors set cheerful --layers 14,16 --positions all
    steersman vectors set cheerful --description 'against gloomy' --safe-range -2 2
    steersman vectors set cheerful --version 01b4af7499ae     back to an older version
    """,
    after="Changed defaults make a new version; older versions stay: `steersman vectors show NAME` "
    "lists them.",
)
RENAME_HELP = with_examples(
    "Give a vector another name. Its older versions go with the old name.",
    """
    steersman vectors rename cheerful-v2 cheerful
    """,
)
COMPARE_HELP = with_examples(
    "Show vectors side by side: defaults, length, and the cosine between each two of them where "
    "both have a tensor.",
    """
    steersman vectors compare cheerful formal space
    steersman vectors compare cheerful cheerful@01b4af7499ae
    """,
)
_POSITIONS = ("generation", "after_prompt", "prompt", "all")


def set_vector(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The vector's name.")],
    coefficient: Annotated[
        float | None, typer.Option(metavar="C", help="Default coefficient.")
    ] = None,
    layers: Annotated[str | None, typer.Option(metavar="8-20,25", help="Default blocks.")] = None,
    positions: Annotated[
        str | None,
        typer.Option(metavar="RULE", help=f"{', '.join(_POSITIONS)}, or START:STOP."),
    ] = None,
    description: Annotated[str | None, typer.Option(metavar="TEXT")] = None,
    safe_range: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="Coefficients at which the text stays sound."),
    ] = None,
    version: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="A digest, or its first 12 hex digits.")
    ] = None,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman vectors set`."""
    asked = wants_json(ctx, as_json)
    change: dict[str, Any] = {
        "coefficient": coefficient,
        "layers": parse.layers(layers),
        "positions": None if positions is None else _positions(positions),
        "description": description,
        "safe_range": None if safe_range is None else list(safe_range),
    }
    change = {key: value for key, value in change.items() if value is not None}
    if not change and version is None:
        raise WrongUsage("nothing is to be changed", remedy="see `steersman vectors set --help`")
    with connection(ctx, server, api_key) as client:
        if version is not None:
            change["digest"] = _version(client.vector(name), version)
        done = client.patch(paths.vector(name), change)
    if asked:
        show.print_json(done)
    else:
        show.result(
            f"{done['id']}: coefficient {show.number(done['coefficient'])}, layers "
            f"{show.layers(done['layers'])}, positions {show.positions(done['positions'])}, "
            f"{done['digest']}"
        )


def rename(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(metavar="OLD", help="The vector's name.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its name from now on.")],
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman vectors rename`."""
    asked = wants_json(ctx, as_json)
    if old == new:
        raise WrongUsage("the two names are the same", param="NEW")
    with connection(ctx, server, api_key) as client:
        vector, data = fetch(client, old)
        try:
            there = client.vector(new)
        except Refused as refused:
            if refused.code != "vector_not_found":
                raise
        else:
            raise CliError(
                f"there is a vector {there['id']!r} already",
                param="NEW",
                remedy=f"choose another name, or `steersman vectors delete {new}` first",
                code="vector_exists",
            )
        done = send(client, data, new)
        change: dict[str, Any] = {"description": vector.description}
        if vector.safe_range is not None:
            change["safe_range"] = list(vector.safe_range)
        done = client.patch(paths.vector(new), change)
        client.delete(paths.vector(old))
    if asked:
        show.print_json(done)
    else:
        show.result(f"{old} is {new} now: {done['digest']}")


def compare(
    ctx: typer.Context,
    vector_ids: Annotated[
        list[str], typer.Argument(metavar="ID", help="Two or more: NAME or NAME@DIGEST.")
    ],
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman vectors compare`."""
    asked = wants_json(ctx, as_json)
    if len(vector_ids) < 2 or len(set(vector_ids)) < len(vector_ids):
        raise WrongUsage("comparing takes two or more vectors, each once", param="ID")
    with connection(ctx, server, api_key) as client:
        found = {vector_id: fetch(client, vector_id)[0] for vector_id in vector_ids}
    doses = {vector_id: added_length(vector) for vector_id, vector in found.items()}
    pairs = [
        {"first": a, "second": b, "hook_points": len(both), "cosine": both}
        for a, b in combinations(found, 2)
        for both in [cosines(found[a], found[b])]
    ]
    if asked:
        show.print_json({"vectors": [_summary(i, v, doses[i]) for i, v in found.items()],
                         "pairs": pairs})  # fmt: skip
        return
    _tables(found, doses, pairs)


def cosines(first: "SteeringVector", second: "SteeringVector") -> dict[str, float]:
    """Cosine between the two at each "<site>.<layer>" where both have a tensor of one shape other
    than zero; in [-1, 1]."""
    from steersman.vectors.tensors import tensor_name

    found = {}
    for key in sorted(first.tensors.keys() & second.tensors.keys()):
        a, b = first.tensors[key].double().flatten(), second.tensors[key].double().flatten()
        length = float(a.norm() * b.norm())
        if a.shape == b.shape and length > 0:
            found[tensor_name(key)] = round(float(a @ b) / length, 6)
    return found


def added_length(vector: "SteeringVector") -> float:
    """Largest length of what a steered token gets at one of the default layers: |c| * ||v||."""
    lengths = [
        float(tensor.double().norm())
        for (_, layer), tensor in vector.tensors.items()
        if layer in vector.layers
    ]
    return abs(vector.coefficient) * max(lengths, default=0.0)


def _summary(vector_id: str, vector: "SteeringVector", dose: float) -> dict[str, Any]:
    return {
        "id": vector_id,
        "digest": vector.digest,
        "coefficient": vector.coefficient,
        "layers": list(vector.layers),
        "positions": vector.positions,
        "method": vector.method,
        "added_length": dose,
    }


def _tables(
    found: dict[str, "SteeringVector"], doses: dict[str, float], pairs: list[dict[str, Any]]
) -> None:
    show.table(
        ("id", "coefficient", "layers", "positions", "method", "length added"),
        [
            (
                vector_id,
                show.number(vector.coefficient),
                show.layers(vector.layers),
                show.positions(vector.positions),
                vector.method or "-",
                show.number(doses[vector_id]),
            )
            for vector_id, vector in found.items()
        ],
        numbers=("coefficient", "length added"),
    )
    rows = []
    for pair in pairs:
        values = list(pair["cosine"].values())
        rows.append(
            (
                f"{pair['first']}, {pair['second']}",
                show.number(sum(values) / len(values) if values else None),
                show.number(min(values, default=None)),
                show.number(max(values, default=None)),
                len(values),
            )
        )
    columns = ("pair", "mean cosine", "lowest", "highest", "hook points")
    show.table(columns, rows, numbers=columns[1:])


def _positions(text: str) -> Any:
    if text in _POSITIONS:
        return text
    start, colon, stop = text.partition(":")
    try:
        numbers = {"start": int(start or "0"), **({"stop": int(stop)} if stop else {})}
    except ValueError:
        numbers = {}
    if not (colon and numbers):
        raise WrongUsage(
            f"{text!r} is not a rule of positions",
            param="--positions",
            remedy=f"write {', '.join(_POSITIONS)}, or START:STOP, as in -4:0",
        )
    return numbers


def _version(entry: dict[str, Any], wanted: str) -> str:
    hexes = wanted.removeprefix("sha256:")
    fitting = [d for d in entry["versions"] if d.removeprefix("sha256:").startswith(hexes)]
    if len(fitting) == 1:
        return str(fitting[0])
    # Content of another name: the server knows whether this caller may have it.
    if len(hexes) == 64:
        return f"sha256:{hexes}"
    versions = ", ".join(short(d) for d in entry["versions"])
    raise WrongUsage(
        f"{wanted!r} is not one of the versions of {entry['id']}",
        param="--version",
        remedy=f"its versions are {versions}",
    )
