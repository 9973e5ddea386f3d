"""What the routes share: `app.state.steersman`."""

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steersman.server.auth.audit import audit
from steersman.server.auth.caller import caller
from steersman.server.auth.library_view import LibraryView
from steersman.server.chat.field import SCHEDULES
from steersman.server.doses import Doses
from steersman.server.drain import Drain
from steersman.server.extraction.jobs import Jobs
from steersman.server.metrics import METRICS
from steersman.steering.plan import MAX_SCHEDULE, BankKey, Limits, Settings
from steersman.steering.plan.dynamic import MAX_PROPERTIES
from steersman.vectors.errors import SteersmanError
from steersman.vectors.library.library import Library

if TYPE_CHECKING:
    from steersman.server.extraction.context import ExtractionContext


@dataclass
class Steersman:
    """One API server's view: the library, the limits, the doses, and who is in flight."""

    settings: Settings
    limits: Limits
    whole_library: Library
    """Requests use `library`, which is what the caller may see of it."""
    all_doses: Doses
    """Requests use `doses`, which have the caller's limit."""
    model: dict[str, Any]
    """id, num_layers, hidden_size, fingerprint and sites of the served model, and whether its
    engine composes dynamically."""
    version: str
    jobs: Jobs = field(init=False)
    extraction: "ExtractionContext" = field(init=False)
    """What jobs run on; set when the server starts."""
    rows: Counter[BankKey] = field(default_factory=Counter)
    """Bank rows that this server's requests in flight need, each with how many need it."""
    drain: Drain = field(default_factory=Drain)
    companions: int = 0
    """Sequences that compute beside the answers of its dynamic requests in flight."""

    def __post_init__(self) -> None:
        self.jobs = Jobs(Path(self.settings.library) / "jobs", self.settings.max_jobs)
        METRICS.rows_total.set(self.limits.bank_rows)
        METRICS.rows_used.set(0)
        METRICS.companions.set(0)
        METRICS.resident.set(0)
        METRICS.ready.set(1)
        METRICS.draining.set(0)
        self.count_library()

    def enter(self, rows: frozenset[BankKey], companions: int) -> None:
        """Count in what a request needs: bank rows, and companions if it is dynamic. Here and in
        `leave`: on the event loop only, which is why neither needs a lock."""
        self.rows.update(rows)
        METRICS.rows_used.set(len(self.rows))
        self.companions += companions
        METRICS.companions.set(self.companions)

    def leave(self, rows: frozenset[BankKey], companions: int) -> None:
        """Count it out again."""
        for row in rows:
            self.rows[row] -= 1
            if self.rows[row] == 0:
                del self.rows[row]
        METRICS.rows_used.set(len(self.rows))
        self.companions -= companions
        METRICS.companions.set(self.companions)

    @property
    def library(self) -> LibraryView:
        """What the caller sees of the library."""
        return LibraryView(
            self.whole_library, caller().permissions, self.settings.max_library_vectors
        )

    @property
    def doses(self) -> Doses:
        """Relative doses, with the caller's limits."""
        permissions = caller().permissions
        return self.all_doses.within(permissions.max_relative_dose, permissions.max_total_dose)

    @property
    def max_extract_rows(self) -> int:
        """Most texts of one of the caller's extractions."""
        most, own = self.settings.max_extract_rows, caller().permissions.max_extract_rows
        return most if own is None else min(most, own)

    @property
    def max_upload_bytes(self) -> int:
        """Largest upload body in bytes."""
        return self.settings.max_upload_bytes

    def count_library(self) -> None:
        """Bring the library gauge up to date."""
        METRICS.library.set(self.whole_library.count())

    def on_change(self, event: str, name: str, digest: str | None) -> None:
        """Called after each change of the library: "created", "updated" or "deleted"."""
        audit(f"vector.{event}", vector=name, digest=digest)
        # The change is made: that it cannot be counted is no reason to say that it was not.
        with contextlib.suppress(SteersmanError):
            self.count_library()

    def capabilities(self) -> dict[str, Any]:
        """What `GET /v1/steering/capabilities` answers."""
        return {
            "object": "steering.capabilities",
            "version": self.version,
            "model": self.model["id"],
            "num_layers": self.model["num_layers"],
            "hidden_size": self.model["hidden_size"],
            "fingerprint": self.model["fingerprint"],
            "sites": self.model["sites"],
            "positions": ["generation", "after_prompt", "prompt", "all", "range"],
            "schedules": [*SCHEDULES, "list"],
            "dynamic": {"max_vectors": MAX_PROPERTIES, "kl": ["mean", "sum"]}
            if self.model["composes"]
            else None,
            "enforce_safe_range": self.settings.enforce_safe_range,
            "require_fingerprint": self.settings.require_fingerprint,
            "median_norms": dict(self.doses.medians) if self.doses.medians is not None else None,
            "limits": {
                **self.settings.limits(),
                "max_schedule": MAX_SCHEDULE,
                "max_relative_dose": self.doses.limit,
                "max_total_dose": self.doses.total_limit,
                "max_extract_rows": self.max_extract_rows,
            },
        }
