"""What the routes share: `app.state.steersman`."""

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from steersman.server.auth.audit import audit
from steersman.server.auth.library_view import LibraryView
from steersman.server.auth.permissions import INLINE, KeyPermissions
from steersman.server.chat.field import SCHEDULES
from steersman.server.chat.in_flight import InFlight
from steersman.server.chat.steered_request import SteeringContext
from steersman.server.doses import Doses
from steersman.server.drain import Drain
from steersman.server.extraction.jobs import Jobs
from steersman.server.library.sent import Inline
from steersman.server.metrics import METRICS
from steersman.server.presets.default import default_of
from steersman.server.presets.view import PresetView
from steersman.steering.plan import MAX_SCHEDULE, Limits, Settings
from steersman.steering.plan.dynamic import MAX_PROPERTIES
from steersman.steering.plan.when.gates import MAX_GATES, MEASURES, OVERS
from steersman.steering.plan.wire.readouts import Measure, Tokens
from steersman.vectors.errors import SteersmanError
from steersman.vectors.library.library import Library
from steersman.vectors.library.presets import PresetStore
from steersman.vectors.library.sent import SentVectors

if TYPE_CHECKING:
    from steersman.server.extraction.context import ExtractionContext
    from steersman.server.patching.run import PatchContext


@dataclass
class Steersman:
    """One API server's state: the library, the limits, the doses, and the requests in flight."""

    settings: Settings
    limits: Limits
    whole_library: Library
    """Requests use `library_for`, which is what a key may see of it."""
    all_doses: Doses
    """Requests use `doses_for`, which have a key's limits."""
    model: dict[str, Any]
    """id, num_layers, hidden_size, fingerprint and sites of the served model, and whether its
    engine composes dynamically, and captures."""
    version: str
    all_presets: PresetStore = field(init=False)
    """Requests use `presets_for`, which is what a key may see of them."""
    sent: SentVectors = field(init=False)
    """Vectors without names: of requests, and of patching."""
    inline: Inline | None = field(init=False)
    """Reads vectors in requests; None where the server takes none."""
    jobs: Jobs = field(init=False)
    extraction: "ExtractionContext" = field(init=False)
    """What jobs run on; set when the server starts."""
    in_flight: InFlight = field(default_factory=InFlight)
    drain: Drain = field(default_factory=Drain)
    tokenizer: Any = None
    """Of the served model; None where it has none."""

    def __post_init__(self) -> None:
        self.all_presets = PresetStore(Path(self.settings.library))
        self.sent = SentVectors(
            self.whole_library, self.settings.max_inline_cache_bytes, self.in_flight.digests
        )
        self.inline = None
        if self.settings.inline_vectors:
            self.inline = Inline(self.sent, self.settings.max_inline_bytes)
        self.jobs = Jobs(Path(self.settings.library) / "jobs", self.settings.max_jobs)
        METRICS.rows_total.set(self.limits.bank_rows)
        METRICS.resident.set(0)
        METRICS.ready.set(1)
        METRICS.draining.set(0)
        self.count_library()

    def library_for(self, permissions: KeyPermissions) -> LibraryView:
        """The library as a key with these `permissions` sees it."""
        return LibraryView(
            self.whole_library, permissions, self.settings.max_library_vectors, self.inline
        )

    def presets_for(self, permissions: KeyPermissions) -> PresetView:
        """What a key with these `permissions` sees of the presets."""
        all_vectors = replace(permissions, vectors=("*",))
        return PresetView(
            self.all_presets,
            permissions,
            self.steering_for(permissions),
            default_of(permissions, self.settings.default_preset),
            self.steering_for(all_vectors),
        )

    def doses_for(self, permissions: KeyPermissions) -> Doses:
        """Relative doses, with the limits of these `permissions`."""
        return self.all_doses.within(permissions.max_relative_dose, permissions.max_total_dose)

    def steering_for(self, permissions: KeyPermissions) -> SteeringContext:
        """What a request with these `permissions` is resolved with."""
        return SteeringContext(
            self.library_for(permissions),
            self.limits,
            self.doses_for(permissions),
            self.settings.enforce_safe_range,
            self.in_flight,
            self.settings.load_timeout,
            self.tokenizer,
        )

    def extraction_for(self, permissions: KeyPermissions) -> "ExtractionContext":
        """What an extraction job with these `permissions` needs."""
        return replace(self.extraction, library=self.library_for(permissions))

    def patching_for(self, permissions: KeyPermissions) -> "PatchContext":
        """What a patching job with these `permissions` needs."""
        from steersman.server.patching.run import PatchContext

        return PatchContext(
            self.extraction_for(permissions),
            self.steering_for(permissions),
            self.sent,
            self.model["num_layers"],
            self.max_extract_rows_for(permissions),
        )

    def max_extract_rows_for(self, permissions: KeyPermissions) -> int:
        """The most texts of one extraction with these `permissions`."""
        most, own = self.settings.max_extract_rows, permissions.max_extract_rows
        return most if own is None else min(most, own)

    @property
    def max_upload_bytes(self) -> int:
        """Largest upload body in bytes."""
        return self.settings.max_upload_bytes

    def count_library(self) -> None:
        """Update the gauge of vectors in the library."""
        METRICS.library.set(self.whole_library.count())

    def on_change(self, event: str, name: str, digest: str | None, kind: str = "vector") -> None:
        """Called after each change of a vector or preset: "created", "updated" or "deleted"."""
        audit(f"{kind}.{event}", **{kind: name}, digest=digest)
        # The change is made: if counting fails, the change must not look as if it had failed.
        with contextlib.suppress(SteersmanError):
            self.count_library()

    def capabilities_for(self, permissions: KeyPermissions) -> dict[str, Any]:
        """The answer of `GET /v1/steering/capabilities` for these `permissions`."""
        doses = self.doses_for(permissions)
        default = default_of(permissions, self.settings.default_preset)
        reads = len(self.limits.operations) > 1
        return {
            "object": "steering.capabilities",
            "version": self.version,
            "model": self.model["id"],
            "num_layers": self.model["num_layers"],
            "hidden_size": self.model["hidden_size"],
            "fingerprint": self.model["fingerprint"],
            "sites": self.model["sites"],
            "aliases": self.model["aliases"],
            "operations": [
                name for name in self.limits.operations if name in permissions.operations
            ],
            "reading_sites": list(self.limits.own_sites),
            "reads": {
                "sites": list(self.limits.readout_sites),
                "measures": list(get_args(Measure)),
                "tokens": list(get_args(Tokens)),
            }
            if self.model["captures"]
            else None,
            "positions": [
                *("generation", "after_prompt", "prompt", "all", "range", "answer_range"),
                *(["marker"] if reads and self.limits.no_gates is None else []),
            ],
            "schedules": [*SCHEDULES, "list"],
            "gates": {"measures": list(MEASURES), "over": list(OVERS), "max_gates": MAX_GATES}
            if reads and self.limits.no_gates is None
            else None,
            "dynamic": {"max_vectors": MAX_PROPERTIES, "kl": ["mean", "sum"]}
            if self.model["composes"]
            else None,
            "default_preset": default and default._asdict(),
            "inline_vectors": self.inline is not None and permissions.may(INLINE),
            "enforce_safe_range": self.settings.enforce_safe_range,
            "require_fingerprint": self.settings.require_fingerprint,
            "median_norms": dict(doses.medians) if doses.medians is not None else None,
            "limits": {
                **self.settings.limits(),
                "max_schedule": MAX_SCHEDULE,
                "max_relative_dose": doses.limit,
                "max_total_dose": doses.total_limit,
                "max_extract_rows": self.max_extract_rows_for(permissions),
            },
        }
