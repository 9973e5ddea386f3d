"""Turns names into a plan: what the client wrote, then the vector's defaults, within the limits."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steersman.server.auth.library_view import LibraryView
from steersman.server.chat.field import (
    AnswerRange,
    DynamicComposition,
    PositionRange,
    SteeringField,
    VectorUse,
)
from steersman.server.chat.reading.resolve import read_use
from steersman.server.chat.strength import Strength, check_shared, outside_safe_ranges, strength
from steersman.server.chat.when.gates import find, resolve_gate
from steersman.server.chat.when.markers import MarkerRule, resolve_marker
from steersman.server.doses import Doses
from steersman.server.errors import NotAllowed
from steersman.steering.plan import (
    STEERABLE_SITES,
    Dynamic,
    Limits,
    Plan,
    PlanInvalid,
    PlannedVector,
    PositionRule,
    check_rule,
)
from steersman.steering.plan.limits import check_added
from steersman.steering.plan.plan import as_float32
from steersman.steering.plan.positions import said
from steersman.vectors.errors import VectorInvalid
from steersman.vectors.library.library import Entry
from steersman.vectors.operation import Operation
from steersman.vectors.parts import check_direction, check_use
from steersman.vectors.tensors import HookPoint, tensor_name


@dataclass(frozen=True)
class Resolved:
    """A plan, and the receipt of each of its vectors without counts."""

    plan: Plan
    draft: list[dict[str, Any]]
    reads: Sequence[dict[str, Any]] = ()
    """The receipt of each of its readouts, without values."""


def resolve(
    field: SteeringField,
    receipt: str,
    library: LibraryView,
    limits: Limits,
    doses: Doses,
    enforce_safe_range: bool = False,
    tokenizer: Any = None,
) -> Resolved:
    """The plan for `field`. Reads the library, so do not call it on the event loop. `tokenizer`: of
    the served model, for markers. Raises `PlanInvalid`, or the library's `VectorNotFound`."""
    limits.check_count(len(field.uses))
    entries = [_find(library, n, use) for n, use in enumerate(field.uses)]
    # From here on a vector that the request brings with it has an id, too.
    uses = [
        use if use.data is None else use.model_copy(update={"id": entry.name, "data": None})
        for use, entry in zip(field.uses, entries, strict=True)
    ]
    field = field.model_copy(update={"vectors": uses})
    planned, strengths, given = [], [], []
    for n, (use, entry) in enumerate(zip(uses, entries, strict=True)):
        where = f"steering.vectors[{n}]"
        terms = _terms(use, entry, where, limits)
        rows = _steps(use, entry, terms, where)
        operation = _operation(use, entry, rows, where, library.operations)
        if operation.name != entry.operation.name:
            # Its coefficient and safe range are those of its own operation.
            entries[n] = replace(entry, coefficient=1.0, safe_range=None)
        steps = rows if operation.adds else None
        setting = strength(field, n, use, entries[n].coefficient, steps)
        vector = PlannedVector(
            digest=entry.digest,
            coefficient=setting.coefficient,
            terms=terms,
            positions=_positions(field, use, entry, where, tokenizer),
            schedule=setting.schedule,
            steps=1 if steps is None else steps,
            hold=setting.hold,
            operation=operation,
            rows=1 if operation.adds or rows is None else rows,
            units=_units(operation, terms, doses, where),
            gate=resolve_gate(use.gate, library, doses, f"{where}.gate") if use.gate else None,
        )
        relative = doses.relative(entry, vector)
        if operation.adds:
            doses.check(relative, repr(use.id), setting.param)
        else:
            _check_directions(entry, vector, doses, where)
        if field.dynamic is not None and operation.adds:
            start, param = _start(field.dynamic, use, where)
            _check_start(start, param, use.id, entry, vector, doses)
        planned.append(vector)
        strengths.append(setting)
        given.append(relative)
    check_shared(field, strengths)
    doses.check_sum(
        dose for vector, dose in zip(planned, given, strict=True) if vector.operation.adds
    )
    reads = [read_use(n, use, library, limits, doses) for n, use in enumerate(field.reads or ())]
    readouts = tuple(one.readout for one in reads)
    plan = Plan(tuple(planned), receipt, _dynamic(field), field.keep_norm, readouts)
    _check(plan, limits, strengths)
    check_added(
        plan,
        [
            sum(doses.norms_of(entry)[term].largest for term in vector.terms)
            for entry, vector in zip(entries, planned, strict=True)
        ],
        limits.most_added,
    )
    outside = outside_safe_ranges(entries, planned)
    if enforce_safe_range:
        _check_ranges(field, entries, outside, strengths)
    parts = zip(field.uses, entries, planned, given, outside, strengths, strict=True)
    draft = [_draft(use.id, *part) for use, *part in parts]
    for n, gate in plan.gates.items():
        asked = uses[n].gate
        assert asked is not None
        draft[n]["gate"] = {"id": asked.id, **gate.said()}
    for part, use in zip(draft, uses, strict=True):
        if isinstance(use.positions, MarkerRule):
            part["positions"] = use.positions.model_dump(exclude_none=True)
    return Resolved(plan, draft, [one.draft for one in reads])


def _find(library: LibraryView, n: int, use: VectorUse) -> Entry:
    """The vector of use number `n`."""
    if use.data is not None:
        return library.read_inline(use.data, f"steering.vectors[{n}].data")
    return find(library, use.id, f"steering.vectors[{n}].id")


def _terms(use: VectorUse, entry: Entry, where: str, limits: Limits) -> tuple[HookPoint, ...]:
    """The hook points at which the vector is added, ascending."""
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


def _steps(use: VectorUse, entry: Entry, terms: tuple[HookPoint, ...], where: str) -> int | None:
    """The number of generation steps of a vector with a tensor for each, or of the tensors that its
    operation needs at a hook point; None for one tensor for all tokens, [hidden]. A tensor [1,
    hidden] is one step."""
    steps: dict[HookPoint, int | None] = {}
    for key in terms:
        shape = entry.tensors[key]
        steps[key] = shape[0] if len(shape) > 1 else None
    if len(set(steps.values())) > 1:
        found = ", ".join(
            f"{tensor_name(key)} has {'none, it is for all tokens' if n is None else n}"
            for key, n in steps.items()
        )
        raise PlanInvalid(
            f"the tensors of vector {use.id!r} have different numbers of steps ({found:.200}); "
            "name layers that have the same",
            param=f"{where}.layers",
            code="different_steps",
        )
    return next(iter(steps.values()), None)


def _operation(
    use: VectorUse, entry: Entry, rows: int | None, where: str, allowed: Collection[str]
) -> Operation:
    """What a use of a vector does to the stream. `rows`: tensors that the vector has at a hook
    point, None for one. Raises `PlanInvalid`, and `NotAllowed` if it is not `allowed`."""
    own = entry.operation
    try:
        operation = use.used_as(own)
        check_use(operation.name, own.name, rows or 1, steps=own.adds and rows is not None)
        operation.check_complete()
    except VectorInvalid as error:
        raise PlanInvalid(error.message, param=f"{where}.{error.param}", code=error.code) from None
    if operation.name not in allowed:
        raise NotAllowed(
            f"this key may not use the operation `{operation.name}`; it may use "
            f"{', '.join(allowed)} (operations in the keys file)",
            param=f"{where}.operation",
            code="operation_not_allowed",
        )
    return operation


def _units(
    operation: Operation, terms: tuple[HookPoint, ...], doses: Doses, where: str
) -> tuple[float, ...]:
    """What the bounds of a `clamp` are multiplied by at each of `terms`; empty for 1."""
    if operation.unit != "median_norm":
        return ()
    if doses.medians is None:
        raise PlanInvalid(
            "this model's median norms are not known, so `unit` can only be stream; start the "
            "server once with --enforce-eager, which measures them",
            param=f"{where}.unit",
            code="dose_unknown",
        )
    return tuple(as_float32(doses.stream_norm(layer)) for _, layer in terms)


def _check_directions(entry: Entry, vector: PlannedVector, doses: Doses, where: str) -> None:
    """Raise `PlanInvalid` if `vector` points nowhere at one of its hook points."""
    if vector.operation.name not in ("project", "clamp"):
        return  # A file for the others is checked when it is read.
    norms = doses.norms_of(entry)
    for point in vector.terms:
        try:
            check_direction(norms[point].length, tensor_name(point))
        except VectorInvalid as error:
            raise PlanInvalid(error.message, param=f"{where}.id", code=error.code) from None


def _start(dynamic: DynamicComposition, use: VectorUse, where: str) -> tuple[float, str]:
    """The coefficient of a vector in its companion, and the key of the request that sets it."""
    if use.dynamic is not None and use.dynamic.start is not None:
        return use.dynamic.start, f"{where}.dynamic.start"
    return dynamic.start, "steering.dynamic.start"


def _check_start(
    start: float, param: str, name: str, entry: Entry, vector: PlannedVector, doses: Doses
) -> None:
    """Raise `PlanInvalid` if the companion of `vector` would exceed a dose limit."""
    alone = replace(vector, coefficient=as_float32(start))
    who = f"{name!r}, which is tried at `start` ({start:g}),"
    doses.check(doses.relative(entry, alone), who, param)


def _check_ranges(
    field: SteeringField,
    entries: list[Entry],
    outside: list[bool | None],
    strengths: list[Strength],
) -> None:
    """Raise `PlanInvalid` for a vector outside its safe range."""
    for use, entry, out, setting in zip(field.uses, entries, outside, strengths, strict=True):
        if out and entry.safe_range is not None:
            low, high = entry.safe_range
            raise PlanInvalid(
                f"vector {use.id!r} is safe from {low:g} to {high:g}, over all its uses in a "
                "request, and this server steers only within that (--enforce-safe-range); choose a "
                "coefficient in between",
                param=setting.param,
                code="outside_safe_range",
            )


def _positions(
    field: SteeringField, use: VectorUse, entry: Entry, where: str, tokenizer: Any
) -> PositionRule:
    default: Any = entry.positions if field.dynamic is None else "generation"
    rule: Any = default if use.positions is None else use.positions
    if isinstance(rule, MarkerRule):
        return resolve_marker(rule, tokenizer, f"{where}.positions")
    if isinstance(rule, PositionRange | AnswerRange):
        rule = rule.model_dump(exclude_none=True)
    return check_rule(rule, f"{where}.positions")


def _dynamic(field: SteeringField) -> Dynamic | None:
    asked = field.dynamic
    if asked is None:
        return None
    starts = tuple(_start(asked, use, "")[0] for use in field.uses)
    own = [use.dynamic.top_p if use.dynamic else None for use in field.uses]
    top_ps = tuple(asked.top_p if top_p is None else top_p for top_p in own)
    return Dynamic(
        asked.start,
        asked.top_p,
        asked.kl == "mean",
        asked.every,
        starts if set(starts) != {asked.start} else (),
        top_ps if set(top_ps) != {asked.top_p} else (),
    )


def _check(plan: Plan, limits: Limits, strengths: list[Strength]) -> None:
    """Check `plan`. An error about a coefficient names the key that the client wrote."""
    try:
        limits.check(plan)
    except PlanInvalid as error:
        written = {f"steering.vectors[{n}].coefficient": s.param for n, s in enumerate(strengths)}
        error.param = written.get(error.param, error.param)
        raise


def _draft(
    name: str,
    entry: Entry,
    vector: PlannedVector,
    relative: dict[str, float] | None,
    outside: bool | None,
    setting: Strength,
) -> dict[str, Any]:
    sites = sorted({site for site, _ in vector.terms})
    return {
        "id": name,
        "digest": vector.digest,
        "site": sites[0] if len(sites) == 1 else sites,
        "layers": sorted({layer for _, layer in vector.terms}),
        "coefficient": vector.coefficient,
        "positions": said(vector.positions),
        **vector.operation.said(),
        **setting.said,
        "relative_dose": relative and {layer: round(dose, 4) for layer, dose in relative.items()},
        "total_dose": None if relative is None else round(sum(relative.values()), 4),
        "outside_safe_range": outside,
        "base_model_matches": entry.base_model_matches,
    }
