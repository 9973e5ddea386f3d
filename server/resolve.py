"""From names to a plan: what the client wrote, then the vector's defaults, within the limits."""

from dataclasses import dataclass
from typing import Any

from server.doses import Doses
from server.keys.view import View
from server.steering_field import DynamicComposition, PositionRange, SteeringField, VectorUse
from server.strength import Strength, check_shared, strength
from steering.plan import (
    STEERABLE_SITES,
    Dynamic,
    Limits,
    Plan,
    PlanInvalid,
    PlannedVector,
    PositionRule,
    check_rule,
)
from vectors.errors import VectorInvalid, VectorNotFound
from vectors.library import Entry
from vectors.tensors import TensorKey


@dataclass(frozen=True)
class Resolved:
    """A plan, and for each of its vectors the receipt without counts."""

    plan: Plan
    draft: list[dict[str, Any]]


def resolve(
    field: SteeringField,
    receipt: str,
    library: View,
    limits: Limits,
    doses: Doses,
) -> Resolved:
    """The plan for `field`. Raises `PlanInvalid` or the library's `VectorNotFound`."""
    limits.check_count(len(field.uses))
    planned, strengths, draft = [], [], []
    for n, use in enumerate(field.uses):
        where = f"steering.vectors[{n}]"
        entry = _find(library, use.id, f"{where}.id")
        terms = _terms(use, entry, where, limits)
        steps = _steps(use, entry, terms, where)
        strong = strength(field, n, use, entry.coefficient, steps)
        vector = PlannedVector(
            digest=entry.digest,
            coefficient=strong.coefficient,
            terms=terms,
            positions=_positions(field, use, entry, where),
            schedule=strong.schedule,
            steps=steps,
            hold=strong.hold,
        )
        relative = doses.relative(entry, vector)
        doses.check(relative, repr(use.id), strong.param)
        planned.append(vector)
        strengths.append(strong)
        draft.append(_draft(use.id, vector, relative, strong))
    check_shared(field, strengths)
    doses.check_sum(part["relative_dose"] for part in draft)
    plan = Plan(tuple(planned), receipt, _dynamic(field.dynamic))
    _check(plan, limits, strengths)
    return Resolved(plan, draft)


def _find(library: View, name: str, param: str) -> Entry:
    try:
        entry = library.resolve(name)
        library.check_fits(entry, param)
    except (VectorInvalid, VectorNotFound) as error:
        error.param = param
        raise
    return entry


def _terms(use: VectorUse, entry: Entry, where: str, limits: Limits) -> tuple[TensorKey, ...]:
    """Where the vector is added."""
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
    for site, _ in terms:
        if site not in STEERABLE_SITES:
            raise PlanInvalid(
                f"vector {use.id!r} is for site {site!r}; this server steers "
                + ", ".join(STEERABLE_SITES),
                param=f"{where}.id",
                code="site_not_supported",
            )
    return terms


def _steps(use: VectorUse, entry: Entry, terms: tuple[TensorKey, ...], where: str) -> int:
    """How many generation steps the vector has a tensor for; 1 for one that is for all."""
    shapes = {key: entry.tensors[key] for key in terms}
    steps = {key: shape[0] if len(shape) > 1 else 1 for key, shape in shapes.items()}
    if len(set(steps.values())) > 1:
        found = ", ".join(f"{site}.{layer} has {n}" for (site, layer), n in steps.items())
        raise PlanInvalid(
            f"the tensors of vector {use.id!r} have different numbers of steps ({found:.200}); "
            "name layers that have the same",
            param=f"{where}.layers",
            code="different_steps",
        )
    return max(steps.values(), default=1)


def _positions(field: SteeringField, use: VectorUse, entry: Entry, where: str) -> PositionRule:
    default: Any = entry.positions if field.dynamic is None else "generation"
    rule: Any = default if use.positions is None else use.positions
    if isinstance(rule, PositionRange):
        rule = (rule.start, rule.stop)
    return check_rule(rule, f"{where}.positions")


def _dynamic(asked: DynamicComposition | None) -> Dynamic | None:
    return None if asked is None else Dynamic(asked.start, asked.top_p, asked.kl == "mean")


def _check(plan: Plan, limits: Limits, strengths: list[Strength]) -> None:
    """Check `plan`, and name the key that the client wrote where it is not `coefficient`."""
    try:
        limits.check(plan)
    except PlanInvalid as error:
        written = {f"steering.vectors[{n}].coefficient": s.param for n, s in enumerate(strengths)}
        error.param = written.get(error.param, error.param)
        raise


def _draft(
    name: str, vector: PlannedVector, relative: dict[str, float] | None, strong: Strength
) -> dict[str, Any]:
    sites = sorted({site for site, _ in vector.terms})
    rule = vector.positions
    return {
        "id": name,
        "digest": vector.digest,
        "site": sites[0] if len(sites) == 1 else sites,
        "layers": sorted({layer for _, layer in vector.terms}),
        "coefficient": vector.coefficient,
        "positions": rule if isinstance(rule, str) else {"start": rule[0], "stop": rule[1]},
        **strong.said,
        "relative_dose": relative,
    }
