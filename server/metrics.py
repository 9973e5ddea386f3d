"""Prometheus metrics, at vLLM's `/metrics`. Label values come from closed sets only."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from steersman.steering.plan import WorkerNote

_LAGS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1, 2, 5, 10, 30)
_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


SOURCES: Final = ("request", "model", "key", "server")
"""What says how a request is steered: its field or header, the model name that it asks for, its
key's preset, or the server's."""


class Outcome(StrEnum):
    """How a steered request ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"


class Metrics:
    """All `steering_*` metrics. In multi-process mode gauges show the newest value."""

    def __init__(self) -> None:
        self.requests = Counter(
            "steering_requests", "Steered requests by outcome (completed, failed, aborted) and "
            "by what said how to steer (request: its field or header; model: its model name; key, "
            "server: the default preset of its key or of the server).",
            ["outcome", "source"],
        )  # fmt: skip
        self.rejections = Counter(
            "steering_rejections", "Steering requests and vector calls refused, by reason.",
            ["reason"],
        )  # fmt: skip
        self.not_finite = Counter(
            "steering_not_finite", "Steered requests that were ended because their residual "
            "stream was not finite; their cache blocks were filled with zeros.",
        )  # fmt: skip
        self.tokens = Counter(
            "steering_tokens", "Tokens steered, counted where the addition happens; a token counts "
            "once for each vector added to it.",
        )  # fmt: skip
        self.library = Gauge(
            "steering_library_vectors", "Vectors in the library.", multiprocess_mode="mostrecent"
        )
        self.library_writable = Gauge(
            "steering_library_writable", "Whether the library can be changed, when GET /ready last "
            "looked.", multiprocess_mode="livemin",
        )  # fmt: skip
        self.resident = Gauge(
            "steering_resident_vectors", "Vectors with a row in the bank.",
            multiprocess_mode="mostrecent",
        )  # fmt: skip
        self.rows_used = Gauge(
            "steering_bank_rows_used", "Bank rows that requests in flight need; more than "
            "steering_bank_rows_total: some wait.", multiprocess_mode="livesum",
        )  # fmt: skip
        self.rows_total = Gauge(
            "steering_bank_rows_total", "Rows of the bank.", multiprocess_mode="mostrecent"
        )
        self.waiting = Gauge(
            "steering_waiting", "Steered requests that are not in the engine's queue yet: they "
            "wait for rows of the bank (rows), or for a vector to be read (load).", ["for"],
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.companions = Gauge(
            "steering_companion_streams", "Companion sequences of dynamic requests in "
            "flight: for each answer one unsteered, and one for each vector.",
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.drafts = Counter(
            "steering_draft", "Engine steps in which companions of a dynamic request "
            "computed a draft of its answer's next token.",
        )  # fmt: skip
        self.drafts_kept = Counter(
            "steering_draft_kept", "Drafts that were the answer's next token, which then "
            "took one engine step.",
        )  # fmt: skip
        self.jobs = Gauge(
            "steering_jobs", "Extractions of this server by state: running, waiting.", ["state"],
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.ready = Gauge(
            "steering_ready", "Whether requests should come here (GET /ready), when last asked.",
            multiprocess_mode="livemin",
        )  # fmt: skip
        self.draining = Gauge(
            "steering_draining", "Whether the server finishes what runs and then stops.",
            multiprocess_mode="livemax",
        )  # fmt: skip
        self.key_requests = Counter(
            "steering_key_requests", "Requests accepted, by the name of their key.", ["key"]
        )
        self.keys_stale = Gauge(
            "steering_keys_stale", "Whether the keys file has changed and cannot be used, so that "
            "the previous keys stay in force.", multiprocess_mode="livemax",
        )  # fmt: skip
        self.upload = Histogram(
            "steering_upload_seconds",
            "Time to store an uploaded vector in the library.",
            buckets=_FAST,
        )
        self.loop_lag = Histogram(
            "steering_event_loop_lag_seconds", "Lag of the API server's event loop: how "
            "late it ran a small task, tried forty times a second. All requests stand "
            "still that long.", buckets=_LAGS,
        )  # fmt: skip
        self.load = Histogram(
            "steering_load_seconds", "Time to read a vector out of the library for the bank, in a "
            "thread, while requests that do not need it go on.", buckets=_FAST,
        )  # fmt: skip
        for outcome in Outcome:
            for source in SOURCES:
                self.requests.labels(outcome, source)
        for reason in ("bank_full", "library_slow"):
            self.rejections.labels(reason)
        for state in ("running", "waiting"):
            self.jobs.labels(state)
        self.show_waiting(0, 0)

    def show_waiting(self, rows: int, load: int) -> None:
        """Set how many steered requests wait for rows of the bank, and for a vector to be read."""
        self.waiting.labels("rows").set(rows)
        self.waiting.labels("load").set(load)

    def observe(
        self, notes: Sequence[WorkerNote], outcome: Outcome, source: str = "request"
    ) -> None:
        """Record what the workers reported about one finished request, steered by `source`."""
        self.requests.labels(outcome, source).inc()
        for note in notes:
            self.tokens.inc(sum(note.steered_tokens))
            self.drafts.inc(note.pace.drafts)
            self.drafts_kept.inc(note.pace.kept)
            for seconds in note.load_seconds:
                self.load.observe(seconds)
            if note.vectors_resident >= 0:
                self.resident.set(note.vectors_resident)


METRICS = Metrics()
"""This process's metrics; prometheus_client registers them once."""
