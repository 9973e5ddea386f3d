"""`steersman vectors list` and `show`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from steersman.client.cli import show
from steersman.client.cli.options import Json, Key, Server, connection, wants_json, with_examples
from steersman.client.cli.vectors.quality import quality_table
from steersman.vectors.digest import short

LIST_HELP = with_examples(
    "List the vectors of the server, by name.",
    """
    steersman vectors list
    steersman vectors list --limit 20
    steersman vectors list --json | jq -r '.data[].id'
    """,
)
SHOW_HELP = with_examples(
    "Show all that is known of a vector: defaults, origin, norms, measures by layer.",
    """
    steersman vectors show cheerful
    steersman vectors show cheerful@4f0c2a9d1b7e        an older version
    steersman vectors show cheerful --json | jq .coefficient
    """,
)


def list_vectors(
    ctx: typer.Context,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="The first N only.")] = None,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman vectors list`."""
    asked = wants_json(ctx, as_json)
    with connection(ctx, server, api_key) as client:
        found = client.vectors(limit)
    if asked:
        show.print_json({"object": "list", "data": found})
    elif not found:
        show.note("there are no vectors; see `steersman vectors extract --help` to make one")
    else:
        print_vectors(found)


def show_vector(
    ctx: typer.Context,
    vector_id: Annotated[str, typer.Argument(metavar="ID", help="NAME or NAME@DIGEST.")],
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman vectors show`."""
    asked = wants_json(ctx, as_json)
    with connection(ctx, server, api_key) as client:
        vector = client.vector(vector_id)
    if asked:
        show.print_json(vector)
        return
    show.fields(_fields(vector))
    if not quality_table(vector):
        _norm_table(vector)


def print_vectors(found: list[dict[str, Any]]) -> None:
    """The table of vectors."""
    show.table(
        ("id", "coefficient", "range", "layers", "positions", "method", "description"),
        [
            (
                vector["id"],
                show.number(vector["coefficient"]),
                _range(vector),
                show.layers(vector["layers"]),
                show.positions(vector["positions"]),
                vector["method"] or "-",
                vector["description"] if vector.get("fits", True) else _MISFIT,
            )
            for vector in found
        ],
        numbers=("coefficient",),
    )


_MISFIT: Final = "not for the served model: `steersman vectors show` has the reason"


def _made_on(vector: dict[str, Any]) -> str | None:
    """The model that the vector's file names; and, if known, that it is not the served one."""
    name = (vector["base_model"] or {}).get("id")
    if vector.get("base_model_matches") is False:
        return f"{name or 'unnamed'}, not the served one"
    return name


def _fields(vector: dict[str, Any]) -> list[tuple[str, Any]]:
    digests = [short(digest) for digest in vector["versions"]]
    settings = {
        name: value
        for name, value in vector["method_settings"].items()
        if name not in ("quality", "imported") and value is not None
    }
    imported = vector["method_settings"].get("imported")
    origin = imported if isinstance(imported, Mapping) else {}
    return [
        ("id", vector["id"]),
        ("digest", vector["digest"]),
        ("description", vector["description"]),
        ("coefficient", f"{show.number(vector['coefficient'])} (safe range {_range(vector)})"),
        ("layers", f"{show.layers(vector['layers'])} of {_available(vector)}"),
        ("positions", show.positions(vector["positions"])),
        ("operation", show.operation(vector)),
        ("method", vector["method"]),
        ("settings", ", ".join(f"{name} {value}" for name, value in settings.items())),
        ("imported", f"{origin.get('file')} ({origin.get('library')})" if origin else None),
        ("model", _made_on(vector)),
        ("does not fit", vector.get("misfit")),
        ("size", f"{len(vector['tensors'])} x {vector['hidden_size']}, {vector['bytes']} bytes"),
        ("licence", vector["licence"]),
        ("made", vector["made_at"]),
        ("here since", datetime.fromtimestamp(vector["created_at"], UTC).isoformat()),
        ("versions", ", ".join(digests)),
    ]


def _norm_table(vector: dict[str, Any]) -> None:
    if vector["norms"]:
        rows = [(name, show.number(norm)) for name, norm in vector["norms"].items()]
        show.table(("tensor", "norm"), rows, numbers=("norm",))


def _available(vector: dict[str, Any]) -> str:
    sites: dict[str, list[int]] = {}
    for tensor in vector["tensors"]:
        sites.setdefault(tensor["site"], []).append(tensor["layer"])
    return ", ".join(f"{site} {show.layers(sorted(found))}" for site, found in sites.items())


def _range(vector: dict[str, Any]) -> str:
    safe = vector["safe_range"]
    return "-" if safe is None else f"{safe[0]:.3g} to {safe[1]:.3g}"
