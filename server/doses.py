"""Relative doses: ||c v|| / median ||h|| at a layer, the unit that compares across layers.

A limit on the dose at each layer bounds what happens there. It does not bound what the layers do
together: every block adds to one stream, so a vector at 30 layers, each a little under the limit,
may add 30 times as much. The limit on the total, the sum over layers, is for that.
"""

import logging
import math
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Final, NamedTuple, Self

from steersman.steering.plan import PlanInvalid, PlannedVector, Settings
from steersman.vectors.file.format import HookPoint, read_tensors
from steersman.vectors.library.library import Entry

logger = logging.getLogger("vllm.steersman")
_REMEMBERED: Final = 4096
_SLACK: Final = 1e-6
"""Of a limit: a coefficient is rounded to float32, and a dose meant to be at the limit is not
over it."""
Relative = Mapping[str, float]
"""Doses by layer, whose number is the key as a string."""


class Norms(NamedTuple):
    """How large one tensor is, in float64."""

    length: float
    """L2 norm; of several steps, the longest one's."""
    largest: float
    """Largest absolute element."""


class DoseLimit(NamedTuple):
    """The most that a dose may be, and who says so."""

    value: float
    of_key: bool = False
    """Whether the caller's key sets it, else the server."""

    def lower(self, other: float | None) -> "DoseLimit":
        """This or, if that is lower, the caller's key's own one."""
        if other is None or self.value <= other:
            return self
        return DoseLimit(other, of_key=True)

    def named(self, setting: str) -> str:
        """As it is called in a message; `setting` is its name in the settings and the keys file."""
        if self.of_key:
            return f"this key's limit of {self.value:g} ({setting} in the keys file)"
        return f"this server's limit of {self.value:g} (--{setting.replace('_', '-')})"


_NO_LIMIT: Final = DoseLimit(math.inf)
_AT_A_LAYER, _TOTAL = "max_relative_dose", "max_total_dose"
_REMEDY: Final = (
    "start once with --enforce-eager, or with VLLM_USE_V2_MODEL_RUNNER=0: they are measured then, "
    "and kept under STEERSMAN_HOME for all later starts on these weights"
)


class Doses:
    """Relative doses of vectors at this model.

    `medians` maps "<site>.<layer>" to the median residual norm there, the first token of each text
    excluded; None where the model has not been calibrated, and then doses are not known. `limit` is
    the most at one layer, `total_limit` the most in sum over layers; None sets none.
    """

    def __init__(
        self,
        medians: Mapping[str, float] | None,
        limit: float | None,
        total_limit: float | None = None,
    ) -> None:
        self.medians = medians
        self._at_a_layer = _NO_LIMIT if limit is None else DoseLimit(limit)
        self._total = _NO_LIMIT if total_limit is None else DoseLimit(total_limit)
        self._norms: OrderedDict[str, dict[HookPoint, Norms]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def limit(self) -> float | None:
        """The most at one layer; None: no limit."""
        return None if self._at_a_layer is _NO_LIMIT else self._at_a_layer.value

    @property
    def total_limit(self) -> float | None:
        """The most in sum over layers; None: no limit."""
        return None if self._total is _NO_LIMIT else self._total.value

    def stream_norm(self, layer: int) -> float:
        """Median norm of the residual stream behind block `layer`, the unit of doses there: also of
        a branch's (`attn_out`, `mlp_out`), which joins it. Assumption: the model is calibrated."""
        assert self.medians is not None
        return self.medians[f"resid_post.{layer}"]

    def within(self, limit: float | None, total_limit: float | None = None) -> Self:
        """The same under a key's limits, too, where they are lower; what is known of vectors is
        shared."""
        if limit is None and total_limit is None:
            return self
        narrow = copy(self)
        narrow._at_a_layer = self._at_a_layer.lower(limit)
        narrow._total = self._total.lower(total_limit)
        return narrow

    def relative(self, entry: Entry, vector: PlannedVector) -> dict[str, float] | None:
        """Dose at each layer of `vector` (keys are layers as strings), or None if not calibrated.

        Those of several sites at one layer add up: all join one stream. Of a schedule, and of
        several steps, the strongest counts; of a dynamic request, the most that may be. Reads the
        vector's file once: not for the event loop.
        """
        if self.medians is None:
            return None
        norms = self.norms_of(entry)
        doses: dict[str, float] = {}
        for site, layer in vector.terms:
            dose = vector.strongest * norms[HookPoint(site, layer)].length / self.stream_norm(layer)
            doses[str(layer)] = doses.get(str(layer), 0.0) + dose
        return doses

    def check(self, relative: Relative | None, who: str, param: str) -> None:
        """Raise `PlanInvalid` for a dose over a limit, or one that is not finite; `who` has
        it, for the message."""
        if relative is None:
            self._check_known(param)
            return
        for layer, dose in relative.items():
            if not math.isfinite(dose):
                raise PlanInvalid(
                    f"{who} at layer {layer} has no finite relative dose; lower the coefficient, "
                    "or upload a vector with smaller numbers",
                    param=param,
                    code="dose_over_limit",
                )
        layer, dose = max(relative.items(), key=lambda item: item[1], default=("", 0.0))
        if _over(dose, self._at_a_layer):
            raise PlanInvalid(
                f"{who} at layer {layer} has a relative dose of {dose:g}, over "
                f"{self._at_a_layer.named(_AT_A_LAYER)}; lower the coefficient",
                param=param,
                code="dose_over_limit",
            )
        total = sum(relative.values())
        if _over(total, self._total):
            raise PlanInvalid(
                f"{who} has a total relative dose of {total:g} over {len(relative)} layers, over "
                f"{self._total.named(_TOTAL)}; lower the coefficient, or name fewer layers",
                param=param,
                code="dose_over_limit",
            )

    def check_sum(self, relative: Iterable[Relative | None]) -> None:
        """The same for several vectors together: what they add at a layer is at most the sum of
        their doses, whatever their directions."""
        total: defaultdict[str, float] = defaultdict(float)
        for doses in relative:
            if doses is None:
                return
            for layer, dose in doses.items():
                total[layer] += dose
        self.check(total, "what all vectors add", "steering.vectors")

    def norms_of(self, entry: Entry) -> Mapping[HookPoint, Norms]:
        """How large each tensor of `entry` is. Reads the file where it is not remembered: not for
        the event loop. Raises `VectorNotFound` and `VectorInvalid` as `read_tensors` does."""
        norms = self._norms.get(entry.digest)
        if norms is None:
            tensors = read_tensors(entry.path, entry.tensors)
            # In float64: the square of an element over 1e19 is none of float32.
            norms = {
                key: Norms(float(t.double().norm(dim=-1).max()), float(t.abs().max()))
                for key, t in tensors.items()
            }
        with self._lock:
            self._norms[entry.digest] = norms
            self._norms.move_to_end(entry.digest)
            if len(self._norms) > _REMEMBERED:
                self._norms.popitem(last=False)
        return norms

    def _check_known(self, param: str) -> None:
        for limit, setting in ((self._at_a_layer, _AT_A_LAYER), (self._total, _TOTAL)):
            if limit is not _NO_LIMIT:
                raise PlanInvalid(
                    f"doses are under {limit.named(setting)}, and this model's are not known: have "
                    "the server started once with --enforce-eager, which measures them",
                    param=param,
                    code="dose_unknown",
                )


def check_doses_known(
    medians: Mapping[str, float] | None, settings: Settings, *, keyed: bool
) -> None:
    """At the start of a server: say once that doses are not known (`medians` is None), and how they
    come to be. Raises `RuntimeError` where `settings` limit them; `keyed`: keys may, too."""
    if medians is not None:
        return
    remedy = _REMEDY if settings.calibrate else f"with the setting calibrate on, {_REMEDY}"
    for name in (_AT_A_LAYER, _TOTAL):
        if getattr(settings, name) is not None:
            raise RuntimeError(
                f"--{name.replace('_', '-')} is set, but this model's residual norms are not known "
                f"and cannot be measured here: {remedy}"
            )
    refused = " Requests under a key that limits them are refused (dose_unknown)." if keyed else ""
    logger.warning(
        "Relative doses of this model are not known.%s To know them, %s", refused, remedy
    )


def _over(dose: float, limit: DoseLimit) -> bool:
    """Whether `dose` is over `limit`; NaN is."""
    return not dose <= limit.value * (1 + _SLACK)
