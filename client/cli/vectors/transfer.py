"""`steersman vectors upload`, `export` and `delete`."""

import dataclasses
import secrets
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steersman.client import paths
from steersman.client.cli import parse, show
from steersman.client.cli.options import Json, Key, Server, connection, wants_json, with_examples
from steersman.client.errors import CliError, Refused, WrongUsage

if TYPE_CHECKING:
    from steersman.client.http import Client
    from steersman.vectors.file.format import SteeringVector

UPLOAD_HELP = with_examples(
    "Upload a safetensors file as a vector. For files of other tools see `vectors import`.",
    """
    steersman vectors upload cheerful.safetensors
    steersman vectors upload mine.safetensors --name cheerful-v2
    steersman vectors upload better.safetensors --name cheerful --replace
    """,
)
EXPORT_HELP = with_examples(
    "Write a vector of the server to a file, for llama.cpp and others (gguf) or as it is.",
    """
    steersman vectors export cheerful --format gguf
    steersman vectors export cheerful --format gguf --layers 10-14 --fold-coefficient
    steersman vectors export cheerful --format safetensors --out /tmp/cheerful.safetensors
    """,
)
DELETE_HELP = with_examples(
    "Delete a vector: gone for new requests at once; requests in flight finish with it.",
    """
    steersman vectors delete cheerful-v2
    """,
)


Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="If the name is taken, replace its vector by this one.",
    ),
]


class Format(StrEnum):
    """The formats of an export."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"


def upload(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A safetensors file.")],
    name: Annotated[
        str | None, typer.Option(help="Its name.  \\[default: the one in its metadata]")
    ] = None,
    replace: Replace = False,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman vectors upload`."""
    asked = wants_json(ctx, as_json)
    data = _read(file)
    # The header of safetensors is JSON behind its length; all else stays here, pickles above all.
    if data[8:9] != b"{":
        raise WrongUsage(
            f"{file.name} is not a safetensors file",
            param="FILE",
            remedy=f"`steersman vectors import {file}` reads files of other tools",
        )
    with connection(ctx, server, api_key) as client:
        vector = send(client, data, name, replace=replace)
    if asked:
        show.print_json(vector)
    else:
        show.result(f"{vector['id']} is on the server: {vector['digest']}")


def export(
    ctx: typer.Context,
    vector_id: Annotated[str, typer.Argument(metavar="ID", help="NAME or NAME@DIGEST.")],
    form: Annotated[Format, typer.Option("--format", help="Format to write.")],
    target: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="File to write.  \\[default: NAME.FORMAT, here]"
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="8-20,25", help="gguf: blocks to write.  \\[default: the vector's own]"
        ),
    ] = None,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold-coefficient",
            help="gguf: multiply the numbers by the default coefficient, for runtimes that take "
            "no strength.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman vectors export`."""
    asked = wants_json(ctx, as_json)
    numbers = parse.layers(layers)
    path = target or Path(f"{vector_id}.{form}")
    if form is Format.SAFETENSORS and (numbers or fold):
        raise WrongUsage("--layers and --fold-coefficient are for --format gguf", param="--format")
    check_target(path, force=force)
    if form is Format.GGUF:
        from steersman.vectors.formats.gguf_export import gguf_package

        gguf_package()
    with connection(ctx, server, api_key) as client:
        vector, data = fetch(client, vector_id)
    if form is Format.SAFETENSORS:
        write(path, data)
        done: dict[str, Any] = {
            "path": str(path),
            "layers": list(vector.layers),
            "strength": vector.coefficient,
        }
    else:
        done = _export_gguf(vector, path, numbers, fold)
    done |= {"id": vector_id, "digest": vector.digest, "format": str(form)}
    if asked:
        show.print_json(done)
        return
    show.result(f"{path}: layers {show.layers(done['layers'])}")
    if done.get("command"):
        show.result(f"llama.cpp: {done['command']}")


def delete(
    ctx: typer.Context,
    vector_id: Annotated[str, typer.Argument(metavar="NAME", help="The vector's name.")],
    force: Annotated[
        bool, typer.Option("--force", help="Delete it although a preset names it.")
    ] = False,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman vectors delete`."""
    asked = wants_json(ctx, as_json)
    with connection(ctx, server, api_key) as client:
        query = {"force": "true"} if force else {}
        gone = client.delete(paths.vector(vector_id), **query)
    if asked:
        show.print_json(gone)
    else:
        show.result(f"{gone['id']} is deleted")


def send(client: "Client", data: bytes, name: str | None, *, replace: bool = False) -> Any:
    """Upload a safetensors file. Returns the server's description of the vector.

    With `replace`, a name that is taken gets this vector in one step for requests; its older
    version stays addressable by digest.
    """
    try:
        return _post(client, data, name)
    except Refused as refused:
        if not replace or refused.code != "vector_exists":
            raise
    from steersman.vectors.file.format import read_vector

    vector = read_vector(data)
    taken = name or vector.name
    assert taken is not None
    beside = name_beside(taken)
    return take_over(client, _post(client, data, beside), taken)


def name_beside(name: str) -> str:
    """A temporary name for the vector that is going to replace the one of `name`."""
    return f"{name[:40]}-{secrets.token_hex(8)}"


def move_to_name(client: "Client", made: dict[str, Any], name: str) -> Any:
    """Give `name` to `made`, a vector as the server shows it, whether or not `name` is taken; the
    vector's own name is deleted. Returns the server's description of `name`."""
    try:
        client.vector(name)
    except Refused as refused:
        if refused.code != "vector_not_found":
            raise
    else:
        return take_over(client, made, name)
    kept = _post(client, fetch(client, made["id"])[1], name)
    client.delete(paths.vector(made["id"]))
    return kept


def take_over(client: "Client", made: dict[str, Any], name: str) -> Any:
    """Make `name`, which has another vector, stand for `made`, a vector as the server shows it,
    whose own name is deleted. Returns the server's description of `name`."""
    change = {"digest": made["digest"], "description": made["description"]}
    if made["safe_range"] is not None:
        change["safe_range"] = made["safe_range"]
    try:
        return client.patch(paths.vector(name), change)
    finally:
        client.delete(paths.vector(made["id"]))


def _post(client: "Client", data: bytes, name: str | None) -> Any:
    fields = {} if name is None else {"name": name}
    files = {"file": ("vector.safetensors", data)}
    return client.post(paths.VECTORS, data=fields, files=files)


def fetch(client: "Client", vector_id: str) -> tuple["SteeringVector", bytes]:
    """A vector and its file, with the name's own description and safe range, because the stored
    file has those of its first upload, and several names may share it. Raises what `client`
    raises."""
    from steersman.vectors.file.format import read_vector, write_vector

    entry = client.vector(vector_id)
    version = f"{entry['id']}@{entry['digest'].removeprefix('sha256:')}"
    data = client.content(f"{paths.vector(version)}/content")
    vector = read_vector(data)
    safe_range = entry["safe_range"] and tuple(entry["safe_range"])
    own = dataclasses.replace(vector, description=entry["description"], safe_range=safe_range)
    same = (own.description, own.safe_range) == (vector.description, vector.safe_range)
    return own, data if same else write_vector(own)


def check_target(path: Path, *, force: bool) -> None:
    """Raise `WrongUsage` if `path` must not be written."""
    if path.exists() and not force:
        raise WrongUsage(
            f"{path} is there already",
            param="--out",
            remedy="overwrite it with --force, or name another",
        )


def write(path: Path, data: bytes) -> None:
    """Write a file in one step. Raises `CliError`."""
    from steersman.vectors.library import disk

    try:
        disk.replace(path, data)
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}", param="--out") from error


def _export_gguf(
    vector: "SteeringVector", path: Path, layers: list[int] | None, fold: bool
) -> dict[str, Any]:
    from steersman.vectors.formats import save_gguf

    done = save_gguf(vector, path, layers=layers, fold_coefficient=fold)
    return {
        "path": str(done.path),
        "layers": list(done.layers),
        "strength": done.strength,
        "command": done.command,
    }


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}", param="FILE") from error
