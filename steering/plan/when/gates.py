"""Gates: a use of a vector acts only where another vector measures enough of something.

A gate is measured at a hook point that is not behind those of its use, in the same forward pass,
on the stream as it arrives there. Over `token` it is decided at each token; over `prompt_last` and
`prompt_mean` once, at the prompt's last token, for this token and all behind it.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args

from msgspec import Meta

from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.positions import PositionRule, answer_range
from steersman.vectors.tensors import HookPoint, tensor_name

if TYPE_CHECKING:
    from steersman.steering.plan.limits import Limits
    from steersman.steering.plan.plan import Plan, PlannedVector

Measure = Literal["projection", "cosine", "cast"]
MEASURES: Final[tuple[Measure, ...]] = get_args(Measure)
Over = Literal["token", "prompt_last", "prompt_mean"]
OVERS: Final[tuple[Over, ...]] = get_args(Over)

MAX_GATES: Final = 8
"""Most uses of one request that have a gate or a marker: the columns of the worker's register."""

_RANK: Final = {"attn_out": 0, "resid_mid": 1, "mlp_out": 2, "resid_post": 3}
"""Sites of a block in the order in which a forward pass comes to them."""


@dataclass(frozen=True)
class PlannedGate:
    """What decides whether a use acts: `measure` of the stream at `point`, with the vector `digest`
    there, over or below `threshold`.

    With v the vector and h the stream, `projection` is h.v / |v|, `cosine` h.v / (|h| |v|), and
    `cast` the cosine of h and tanh(v (v.h) / (v.v)), as in Conditional Activation Steering (Lee and
    others, 2024; https://arxiv.org/abs/2409.05907), whose code is IBM/activation-steering.
    """

    digest: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
    point: HookPoint
    measure: Measure
    threshold: float
    """Exactly a float32."""
    below: bool = False
    """True: it passes where the measure is below the threshold; False: where it is above."""
    over: Over = "token"

    @property
    def latched(self) -> bool:
        """Whether it is decided once for a request."""
        return self.over != "token"

    def said(self) -> dict[str, Any]:
        """As receipts have it, without what it measured."""
        return {
            "digest": self.digest,
            "site": self.point.site,
            "layer": self.point.layer,
            "measure": self.measure,
            "below" if self.below else "above": self.threshold,
            "over": self.over,
        }


def check_conditions(plan: "Plan", limits: "Limits") -> None:
    """Raise `PlanInvalid`, about `steering.vectors[n].gate` or `.positions`, for a gate or a marker
    of `plan` that cannot be decided here."""
    for n in plan.conditional:
        vector, where = plan.vectors[n], f"steering.vectors[{n}]"
        for what, there, key in (
            ("gates", vector.gate, "gate"),
            ("markers", vector.marker, "positions"),
        ):
            if there is not None:
                _check_served(plan, vector, limits, what, f"{where}.{key}")
        if vector.marker is not None and vector.schedule:
            raise PlanInvalid(
                "a schedule counts from the first steered token, and a marker says only later "
                "which it is; leave out one of them",
                param=f"{where}.positions",
                code="not_supported",
            )
        if vector.gate is not None:
            _check_gate(vector.gate, vector, limits, where)


def _check_served(
    plan: "Plan",
    vector: "PlannedVector",
    limits: "Limits",
    what: str,
    param: str,
) -> None:
    """Raise `PlanInvalid` where there are no gates, or no markers (`what`), because of the engine
    or of the request."""
    reason = limits.no_gates
    if reason is None and len(limits.operations) == 1:
        reason = "a server that only adds"
    if reason is None and plan.dynamic is not None:
        reason = "dynamic composition"
    if reason is None and vector.steps > 1:
        reason = "vectors with a tensor for each step"
    if reason is not None:
        raise PlanInvalid(
            f"{what} are not served with {reason}; leave out one of them",
            param=param,
            code="not_supported",
        )
    if len(plan.conditional) > MAX_GATES:
        raise PlanInvalid(
            f"the request has {len(plan.conditional)} uses with a gate or a marker, at most "
            f"{MAX_GATES} are allowed; name fewer",
            param=param,
            code="too_many_terms",
        )


def _check_gate(gate: PlannedGate, vector: "PlannedVector", limits: "Limits", where: str) -> None:
    if not math.isfinite(gate.threshold):
        side = "below" if gate.below else "above"
        raise PlanInvalid("a threshold must be a finite number", param=f"{where}.gate.{side}")
    _check_point(gate, vector.terms, limits, f"{where}.gate")
    if gate.latched and not _from_prompt_end(vector.positions):
        raise PlanInvalid(
            f"a gate over `{gate.over}` is decided at the prompt's last token, so it governs this "
            "token and those behind it: use the positions `generation`, `after_prompt` or a range "
            'with "of": "answer"',
            param=f"{where}.positions",
        )


def _check_point(
    gate: PlannedGate, terms: tuple[HookPoint, ...], limits: "Limits", where: str
) -> None:
    limits.check_layer(gate.point.layer, f"{where}.layer")
    if gate.point.site not in limits.own_sites or gate.point.site not in limits.sites:
        raise PlanInvalid(
            f"nothing is measured at {gate.point.site} here; it can be at "
            f"{', '.join(limits.own_sites)}",
            param=f"{where}.id",
            code="site_not_supported",
        )
    sequential = "resid_mid" in limits.sites
    for point in terms:
        if not comes_first(gate.point, point, sequential=sequential):
            raise PlanInvalid(
                f"the gate is measured at {tensor_name(gate.point)}, which lies behind "
                f"{tensor_name(point)}, where it is to decide; measure it at a lower layer, or "
                "steer at higher ones",
                param=f"{where}.layer",
                code="gate_behind_use",
            )


def comes_first(gate: HookPoint, use: HookPoint, *, sequential: bool) -> bool:
    """Whether a forward pass comes to `gate` before `use`, or they are one. `sequential`: in a
    block the MLP comes behind the attention, and does not run beside it.

    >>> comes_first(HookPoint("resid_post", 3), HookPoint("attn_out", 4), sequential=False)
    True
    """
    if gate.layer != use.layer or gate.site == use.site:
        return gate.layer <= use.layer
    if "resid_post" not in (gate.site, use.site) and not sequential:
        return False
    return _RANK[gate.site] < _RANK[use.site]


def _from_prompt_end(rule: PositionRule) -> bool:
    """Whether the rule names no token before the prompt's last."""
    if isinstance(rule, tuple):
        return rule[0] == -1
    return rule in ("generation", "after_prompt") or answer_range(rule) is not None
