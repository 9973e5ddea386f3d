"""REST: lengths of a vector, cosines with the library's other vectors, and its logit lens."""

from typing import Any, Final, NamedTuple, TypeVar, cast

import torch
from fastapi import APIRouter, Request
from starlette.responses import Response

from steersman.server.auth.library_view import LibraryView
from steersman.server.dependencies import CallersDoses, CallersExtraction, CallersLibrary
from steersman.server.doses import Doses
from steersman.server.library.inspect_schemas import (
    Inspection,
    Similar,
    Similarity,
    TensorInspection,
    TokenEffect,
)
from steersman.server.library.lanes import INSPECTIONS
from steersman.server.library.openapi import errors
from steersman.vectors.errors import SteersmanError, VectorInvalid, shown
from steersman.vectors.file.format import HookPoint, read_tensors, tensor_name
from steersman.vectors.library.library import Entry

MAX_COMPARED: Final = 1000
"""Other vectors that one inspection reads."""
MAX_COUNT: Final = 100
COUNT: Final = 10

T = TypeVar("T")
Directions = dict[HookPoint, torch.Tensor]
"""float32 [hidden] each: the tensor, or the mean of its steps."""


def build_router() -> APIRouter:
    """The route. Add it to the app before those of the vectors, whose paths match everything below
    them."""
    router = APIRouter(prefix="/v1/steering", tags=["steering"], responses=errors(500))
    router.add_api_route(
        "/vectors/{vector_id:path}/inspect",
        inspect,
        methods=["GET"],
        response_model=Inspection,
        responses=errors(400, 404),
        openapi_extra={"parameters": [_COUNT_PARAMETER]},
    )
    return router


async def inspect(
    vector_id: str,
    request: Request,
    library: CallersLibrary,
    doses: CallersDoses,
    extraction: CallersExtraction,
) -> Response:
    """Norms, similarity to the other vectors, and top and bottom tokens of each tensor."""
    for key in request.query_params:
        if key != "count":
            raise VectorInvalid(
                f"{shown(key)} is not known here; use count", param=key[:128], code="unknown_field"
            )
    count = _count(request.query_params.get("count"))
    read = await INSPECTIONS.run(_read, library, vector_id)
    lens = await _lens(extraction.engine, read.directions, count)
    return await INSPECTIONS.run(_answer, doses, extraction.tokenizer, read, lens, count)


class _Read(NamedTuple):
    """What was read of the vector from the library."""

    entry: Entry
    tensors: Directions
    directions: Directions
    similarity: Similarity
    left_out: int


def _read(library: LibraryView, vector_id: str) -> _Read:
    entry = library.resolve(vector_id)
    library.check_fits(entry, "id")
    tensors = read_tensors(entry.path, entry.tensors)
    directions = {key: t if t.ndim == 1 else t.mean(dim=0) for key, t in tensors.items()}
    return _Read(entry, tensors, directions, *compare(library, entry, directions))


def _answer(
    doses: Doses, tokenizer: Any, read: _Read, lens: dict[str, Any], count: int
) -> Response:
    """The answer as JSON. Decodes up to 200 tokens of each tensor, so do not call it on the event
    loop."""
    entry, tensors, directions, similarity, left_out = read
    quality = entry.method_settings.get("quality")

    def one(row: int, key: HookPoint) -> TensorInspection:
        site, layer = key
        norm = float(tensors[key].double().norm(dim=-1).max())
        said = lens["tokens"][row]
        return TensorInspection(
            name=tensor_name(key),
            site=site,
            layer=layer,
            shape=list(tensors[key].shape),
            default=layer in entry.layers,
            norm=norm,
            relative_norm=None if doses.medians is None else norm / doses.stream_norm(layer),
            top_tokens=_effects(said["top"], tokenizer),
            bottom_tokens=_effects(said["bottom"], tokenizer),
            similar=_nearest(similarity, row, count),
        )

    found = Inspection(
        id=entry.name,
        digest=entry.digest,
        coefficient=entry.coefficient,
        layers=list(entry.layers),
        recommended=_part(quality, "recommended", dict),
        not_recommended=_part(quality, "reason", str),
        final_norm=lens["norm"],
        tensors=[one(row, key) for row, key in enumerate(directions)],
        similarity=similarity,
        not_compared=left_out,
    )
    return Response(found.model_dump_json(), media_type="application/json")


def _part(quality: object, name: str, kind: type[T]) -> T | None:
    """The value `name` of `quality` if it is there and of type `kind`; else None."""
    found = quality.get(name) if isinstance(quality, dict) else None
    return found if isinstance(found, kind) else None


def compare(library: LibraryView, entry: Entry, directions: Directions) -> tuple[Similarity, int]:
    """Cosines of `directions` with the tensors of every other name, and the number of names left
    out, because a library may hold vectors of several models."""
    names: list[str] = []
    columns: list[list[float | None]] = []
    everybody = [other for other in library.list() if other.name != entry.name]
    others = [other for other in everybody if _alike(entry, other)]
    left_out = len(everybody) - min(len(others), MAX_COMPARED)
    for other in others[:MAX_COMPARED]:
        shared = [key for key in directions if key in other.tensors]
        try:
            theirs = read_tensors(other.path, shared)
        except SteersmanError:
            left_out += 1
            continue
        names.append(other.name)
        columns.append(
            [
                _cosine(mine, theirs[key]) if key in theirs else None
                for key, mine in directions.items()
            ]
        )
    rows = [list(row) for row in zip(*columns, strict=True)] or [[] for _ in directions]
    return Similarity(tensors=[tensor_name(k) for k in directions], vectors=names, cosines=rows), (
        left_out
    )


def _alike(entry: Entry, other: Entry) -> bool:
    """Whether a cosine of the two vectors means something: they have one width, and are not of two
    models."""
    mine, theirs = (e.base_model.fingerprint if e.base_model else None for e in (entry, other))
    return entry.hidden_size == other.hidden_size and (
        mine is None or theirs is None or mine == theirs
    )


async def _lens(engine: Any, directions: Directions, count: int) -> dict[str, Any]:
    rows = [direction.contiguous().numpy().tobytes() for direction in directions.values()]
    # The engine does this between two steps: its requests wait for some rows of logits.
    answers = await engine.collective_rpc("steering_lens", args=(rows, count))
    # Under tensor parallelism the logits are gathered on one rank; the others have none.
    found = next((answer for answer in answers if answer is not None), None)
    if found is None:
        raise SteersmanError("no worker gave logits, so the tokens of the vector are not known")
    return cast("dict[str, Any]", found)


def _cosine(mine: torch.Tensor, theirs: torch.Tensor) -> float | None:
    a, b = mine.double(), (theirs if theirs.ndim == 1 else theirs.mean(dim=0)).double()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 0 else None


def _nearest(similarity: Similarity, row: int, count: int) -> list[Similar]:
    known = [
        Similar(id=name, cosine=cosine)
        for name, cosine in zip(similarity.vectors, similarity.cosines[row], strict=True)
        if cosine is not None
    ]
    return sorted(known, key=lambda s: (-abs(s.cosine), s.id))[:count]


def _effects(found: list[tuple[int, float]], tokenizer: Any) -> list[TokenEffect]:
    return [TokenEffect(id=i, text=tokenizer.decode([i]), logit=logit) for i, logit in found]


def _count(text: str | None) -> int:
    if text is None:
        return COUNT
    if text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MAX_COUNT:
        return int(text)
    raise VectorInvalid(
        f"count must be 1 to {MAX_COUNT}, not {shown(text)}", param="count", code="invalid_query"
    )


_COUNT_PARAMETER: Final = {
    "name": "count",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_COUNT, "default": COUNT},
    "description": "How many tokens, and how many similar vectors, of each tensor.",
}
