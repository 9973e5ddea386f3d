"""Relative doses: ||c v|| / median ||h|| at a layer, the unit that compares across layers."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Self

from steering.plan import PlanInvalid, PlannedVector
from vectors.format import read_tensors
from vectors.library import Entry

_REMEMBERED = 4096


class Doses:
    """Relative doses of vectors at this model.

    `medians` maps "<site>.<layer>" to the median residual norm there, the first token of each text
    excluded; None where the model has not been calibrated, and then doses are not known.
    """

    def __init__(self, medians: Mapping[str, float] | None, limit: float | None) -> None:
        self.medians = medians
        self.limit = limit
        self._norms: OrderedDict[str, dict[tuple[str, int], float]] = OrderedDict()
        self._lock = threading.Lock()

    def stream_norm(self, layer: int) -> float:
        """Median norm of the residual stream behind block `layer`, the unit of doses there: also of
        a branch's (`attn_out`, `mlp_out`), which joins it. Assumption: the model is calibrated."""
        assert self.medians is not None
        return self.medians[f"resid_post.{layer}"]

    def within(self, limit: float | None) -> Self:
        """The same under `limit`, too, if it is lower; what is known of vectors is shared."""
        if limit is None or (self.limit is not None and self.limit <= limit):
            return self
        narrow = copy(self)
        narrow.limit = limit
        return narrow

    def relative(self, entry: Entry, vector: PlannedVector) -> dict[str, float] | None:
        """Dose at each layer of `vector` (keys are layers as strings), or None if not calibrated.

        Those of several sites at one layer add up: all join one stream. Of a schedule, and of
        several steps, the strongest counts; of a dynamic request, the most that may be.
        """
        if self.medians is None:
            return None
        norms = self._norms_of(entry)
        strongest = max(map(abs, vector.schedule), default=abs(vector.coefficient))
        doses: dict[str, float] = {}
        for site, layer in vector.terms:
            dose = strongest * norms[site, layer] / self.stream_norm(layer)
            doses[str(layer)] = round(doses.get(str(layer), 0.0) + dose, 4)
        return doses

    def check(self, relative: Mapping[str, float] | None, who: str, param: str) -> None:
        """Raise `PlanInvalid` for a dose over the server's limit; `who` has it, for the message."""
        if self.limit is None:
            return
        if relative is None:
            raise PlanInvalid(
                f"doses are limited to {self.limit:g} here, and this model's are not known: have "
                "the server started once with --enforce-eager, which measures them",
                param=param,
                code="dose_unknown",
            )
        if not relative:
            return
        layer, dose = max(relative.items(), key=lambda item: item[1])
        if dose > self.limit:
            raise PlanInvalid(
                f"{who} at layer {layer} has a relative dose of {dose:g}, over this server's "
                f"limit of {self.limit:g}; lower the coefficient",
                param=param,
                code="dose_over_limit",
            )

    def check_sum(self, relative: Iterable[Mapping[str, float] | None]) -> None:
        """The same for several vectors together: what they add at a layer is at most the sum of
        their doses, whatever their directions."""
        total: defaultdict[str, float] = defaultdict(float)
        for doses in relative:
            for layer, dose in (doses or {}).items():
                total[layer] += dose
        self.check(total, "what all vectors add", "steering.vectors")

    def _norms_of(self, entry: Entry) -> dict[tuple[str, int], float]:
        norms = self._norms.get(entry.digest)
        if norms is None:
            tensors = read_tensors(entry.path, entry.tensors)
            norms = {key: float(t.norm(dim=-1).max()) for key, t in tensors.items()}
        with self._lock:
            self._norms[entry.digest] = norms
            self._norms.move_to_end(entry.digest)
            if len(self._norms) > _REMEMBERED:
                self._norms.popitem(last=False)
        return norms
