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
from steersman.vectors.parts import written_rows

logger = logging.getLogger("vllm.steersman")
_REMEMBERED: Final = 4096
_SLACK: Final = 1e-6
"""Of a limit: a coefficient is rounded to float32, and a dose meant to be at the limit is not
over it."""
Relative = Mapping[str, float]
"""Doses by layer, whose number is the key as a string."""


class Norms(NamedTuple):
    """Size of one tensor, in float64."""

    length: float
    """L2 norm; of several steps, the longest one's."""
    largest: float
    """Largest absolute element."""


class DoseLimit(NamedTuple):
    """The largest allowed dose, and whether the server or the key sets it."""

    value: float
    of_key: bool = False
    """Whether the caller's key sets it, else the server."""

    def lower(self, other: float | None) -> "DoseLimit":
        """This limit, or that of the caller's key if it is lower."""
        if other is None or self.value <= other:
            return self
        return DoseLimit(other, of_key=True)

    def named(self, setting: str) -> str:
        """The limit in words, for a message. `setting` is its name in the settings and in the keys
        file."""
        if self.of_key:
            return f"this key's limit of {self.value:g} ({setting} in the keys file)"
        return f"this server's limit of {self.value:g} (--{setting.replace('_', '-')})"


_NO_LIMIT: Final = DoseLimit(math.inf)
_AT_A_LAYER, _TOTAL = "max_relative_dose", "max_total_dose"
_REMEDY: Final = (
    "they are measured then, and kept under STEERSMAN_HOME for all later starts on these weights"
)


class Doses:
    """Relative doses of vectors at this model.

    `medians`: the median residual norm (L2) at each "<site>.<layer>", the first token of each text
    excluded; None if the model has not been calibrated, and then doses are not known. `limit`: the
    largest dose at one layer; `total_limit`: the largest sum over layers; None: no limit.
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
        """The largest dose at one layer; None: no limit."""
        return None if self._at_a_layer is _NO_LIMIT else self._at_a_layer.value

    @property
    def total_limit(self) -> float | None:
        """The largest sum of doses over layers; None: no limit."""
        return None if self._total is _NO_LIMIT else self._total.value

    def stream_norm(self, layer: int) -> float:
        """Median norm of the residual stream behind block `layer`: the unit of doses at that layer,
        also for `attn_out` and `mlp_out`, which join the stream. Assumption: the model is
        calibrated."""
        assert self.medians is not None
        return self.medians[f"resid_post.{layer}"]

    def within(self, limit: float | None, total_limit: float | None = None) -> Self:
        """The same doses under the limits of a key, where they are lower. Both share what is known
        of vectors."""
        if limit is None and total_limit is None:
            return self
        narrow = copy(self)
        narrow._at_a_layer = self._at_a_layer.lower(limit)
        narrow._total = self._total.lower(total_limit)
        return narrow

    def relative(self, entry: Entry, vector: PlannedVector) -> dict[str, float] | None:
        """The dose of `vector` at each layer (keys are layers as strings); None if the model is not
        calibrated.

        Doses of several sites at one layer add up, because all join one stream. With a schedule or
        several steps the largest counts; for a dynamic request the maximum counts. May read the
        vector's file, so do not call it on the event loop.
        """
        if self.medians is None or not vector.operation.adds:
            return None
        norms = self.norms_of(entry)
        doses: dict[str, float] = {}
        for site, layer in vector.terms:
            dose = vector.strongest * norms[HookPoint(site, layer)].length / self.stream_norm(layer)
            doses[str(layer)] = doses.get(str(layer), 0.0) + dose
        return doses

    def check(self, relative: Relative | None, who: str, param: str) -> None:
        """Raise `PlanInvalid` for a dose that is over a limit or not finite. `who`: the vector, for
        the message."""
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
        """Raise `PlanInvalid` if several vectors together are over a limit: what they add at a
        layer is at most the sum of their doses, whatever their directions."""
        total: defaultdict[str, float] = defaultdict(float)
        for doses in relative:
            if doses is None:
                return
            for layer, dose in doses.items():
                total[layer] += dose
        self.check(total, "what all vectors add", "steering.vectors")

    def norms_of(self, entry: Entry) -> Mapping[HookPoint, Norms]:
        """Sizes of the tensors of `entry`. Reads the file if they are not cached, so do not call it
        on the event loop. Raises `VectorNotFound` and `VectorInvalid` as `read_tensors` does."""
        norms = self._norms.get(entry.digest)
        if norms is None:
            tensors = read_tensors(entry.path, entry.tensors)
            # In float64: the square of an element over 1e19 is none of float32.
            norms = {}
            for key, tensor in tensors.items():
                t = tensor.reshape(-1, tensor.shape[-1])
                t = t[written_rows(entry.operation.name, len(t))]
                norms[key] = Norms(float(t.double().norm(dim=-1).max()), float(t.abs().max()))
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
                    f"{limit.named(setting)} cannot be checked, because this model's norms are not "
                    "known: start the server once with --enforce-eager, which measures them",
                    param=param,
                    code="dose_unknown",
                )


def check_doses_known(
    medians: Mapping[str, float] | None, settings: Settings, *, keyed: bool
) -> None:
    """At the start of a server: log once if doses are not known (`medians` is None), and how to
    change that. Raises `RuntimeError` if `settings` limit doses. `keyed`: keys may limit them,
    too."""
    if medians is not None:
        return
    how = "--enforce-eager" if settings.calibrate else "the setting calibrate on"
    remedy = f"start once with {how}: {_REMEDY}"
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
    """Whether `dose` is over `limit`; True for NaN."""
    return not dose <= limit.value * (1 + _SLACK)
