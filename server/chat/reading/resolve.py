"""Turns the names of `steering.read` into readouts of a plan."""

from typing import Any, NamedTuple

from steersman.server.auth.library_view import LibraryView
from steersman.server.chat.reading.use import ReadUse
from steersman.server.doses import Doses
from steersman.steering.plan import Limits, PlanInvalid
from steersman.steering.plan.wire.readouts import Readout
from steersman.vectors.errors import VectorInvalid, VectorNotFound
from steersman.vectors.library.library import Entry
from steersman.vectors.parts import check_direction
from steersman.vectors.tensors import HookPoint, tensor_name


class Reading(NamedTuple):
    """One readout, and the part of the receipt that is known before the first token."""

    readout: Readout
    draft: dict[str, Any]


def read_use(n: int, use: ReadUse, library: LibraryView, limits: Limits, doses: Doses) -> Reading:
    """Entry number `n` of `steering.read`. Reads the library, so do not call it on the event loop.
    Raises `PlanInvalid`, or the library's errors; `param` names the key."""
    where = f"steering.read[{n}]"
    try:
        entry = library.resolve(use.id)
        library.check_fits(entry, f"{where}.id")
    except (VectorInvalid, VectorNotFound) as error:
        error.param = f"{where}.id"
        raise
    terms = _terms(use, entry, where, limits)
    norms = doses.norms_of(entry)
    for point in terms:
        if len(entry.tensors[point]) > 1:
            raise PlanInvalid(
                f"vector {use.id!r} has {entry.tensors[point][0]} tensors at a layer, and a read "
                "needs one direction; name another vector",
                param=f"{where}.id",
                code="not_one_direction",
            )
        try:
            check_direction(norms[point].length, tensor_name(point))
        except VectorInvalid as error:
            raise PlanInvalid(error.message, param=f"{where}.id", code=error.code) from None
    sites = sorted({site for site, _ in terms})
    draft = {
        "id": use.id,
        "digest": entry.digest,
        "site": sites[0] if len(sites) == 1 else sites,
        "layers": sorted({layer for _, layer in terms}),
        "measure": use.measure,
        "tokens": use.tokens,
    }
    return Reading(Readout(entry.digest, terms, use.measure, use.tokens), draft)


def _terms(use: ReadUse, entry: Entry, where: str, limits: Limits) -> tuple[HookPoint, ...]:
    """The hook points at which the vector is read, ascending."""
    layers = set(use.layers if use.layers is not None else entry.layers)
    for layer in sorted(layers):
        limits.check_layer(layer, f"{where}.layers")
    available = {layer for _, layer in entry.tensors}
    if absent := sorted(layers - available):
        raise PlanInvalid(
            f"vector {use.id!r} has no layer {absent[0]}; it has {sorted(available)}",
            param=f"{where}.layers",
            code="layer_not_in_vector",
        )
    return tuple(sorted(point for point in entry.tensors if point.layer in layers))
