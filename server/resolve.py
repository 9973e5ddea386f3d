"""From names to a plan: what the client wrote, then the vector's defaults, within the limits."""

from dataclasses import dataclass
from typing import Any

from server.doses import Doses
from server.steering_field import PositionRange, SteeringField, VectorUse
from steering.plan import STEERABLE_SITES, Limits, Plan, PlanInvalid, PlannedVector, check_rule
from steering.plan.plan import as_float32
from vectors.errors import VectorInvalid, VectorNotFound
from vectors.library import Entry, Library


@dataclass(frozen=True)
class Resolved:
    """A plan, and for each of its vectors the receipt without counts."""

    plan: Plan
    draft: list[dict[str, Any]]


def resolve(
    field: SteeringField,
    receipt: str,
    library: Library,
    limits: Limits,
    doses: Doses,
) -> Resolved:
    """The plan for `field`. Raises `PlanInvalid` or the library's `VectorNotFound`."""
    limits.check_count(len(field.uses))
    planned, draft = [], []
    for n, use in enumerate(field.uses):
        entry = _find(library, use.id, f"steering.vectors[{n}].id")
        vector = _plan_vector(use, entry, f"steering.vectors[{n}]", limits)
        relative = doses.relative(entry, vector)
        doses.check(relative, repr(use.id), f"steering.vectors[{n}].coefficient")
        planned.append(vector)
        draft.append(_draft(use.id, vector, relative))
    doses.check_sum(part["relative_dose"] for part in draft)
    plan = Plan(tuple(planned), receipt)
    limits.check(plan)
    return Resolved(plan, draft)


def _find(library: Library, name: str, param: str) -> Entry:
    try:
        entry = library.resolve(name)
        library.check_fits(entry, param)
    except (VectorInvalid, VectorNotFound) as error:
        error.param = param
        raise
    return entry


def _plan_vector(use: VectorUse, entry: Entry, where: str, limits: Limits) -> PlannedVector:
    available = {layer for _, layer in entry.tensors}
    layers = set(use.layers if use.layers is not None else entry.layers)
    for layer in sorted(layers):
        limits.check_layer(layer, f"{where}.layers")
    if absent := sorted(layers - available):
        raise PlanInvalid(
            f"vector {use.id!r} has no layer {absent[0]}; it has {sorted(available)}",
            param=f"{where}.layers",
            code="layer_not_in_vector",
        )
    terms = tuple(sorted(key for key in entry.tensors if key[1] in layers))
    for key in terms:
        if len(entry.tensors[key]) != 1:
            raise PlanInvalid(
                f"vector {use.id!r} has one vector a generation step, which this version "
                "cannot use yet",
                param=f"{where}.id",
                code="not_supported",
            )
        if key[0] not in STEERABLE_SITES:
            raise PlanInvalid(
                f"vector {use.id!r} is for site {key[0]!r}; this server steers "
                + ", ".join(STEERABLE_SITES),
                param=f"{where}.id",
                code="site_not_supported",
            )
    coefficient = entry.coefficient if use.coefficient is None else use.coefficient
    rule: Any = entry.positions if use.positions is None else use.positions
    if isinstance(rule, PositionRange):
        rule = (rule.start, rule.stop)
    return PlannedVector(
        digest=entry.digest,
        coefficient=as_float32(coefficient),
        terms=terms,
        positions=check_rule(rule, f"{where}.positions"),
    )


def _draft(name: str, vector: PlannedVector, relative: dict[str, float] | None) -> dict[str, Any]:
    sites = sorted({site for site, _ in vector.terms})
    rule = vector.positions
    return {
        "id": name,
        "digest": vector.digest,
        "site": sites[0] if len(sites) == 1 else sites,
        "layers": sorted({layer for _, layer in vector.terms}),
        "coefficient": vector.coefficient,
        "positions": rule if isinstance(rule, str) else {"start": rule[0], "stop": rule[1]},
        "relative_dose": relative,
    }
