"""Steersman's settings inside vLLM: `--additional-config '{"steersman": {...}}'`.

vLLM carries `additional_config` to every process and into its compile-cache key.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self


def default_home() -> Path:
    """`$STEERSMAN_HOME`, else `~/.cache/steersman`."""
    return Path(os.environ.get("STEERSMAN_HOME") or Path.home() / ".cache" / "steersman")


_COUNTS = (
    "bank_rows",
    "max_terms",
    "max_vectors",
    "max_segments",
    "max_upload_bytes",
    "max_extract_rows",
    "max_jobs",
    "max_steps",
    "max_schedule_total",
    "max_plan_terms",
    "max_dynamic",
    "max_library_vectors",
    "max_body_bytes",
    "max_body_containers",
    "max_body_depth",
    "max_body_values",
    "max_input_items",
)


@dataclass(frozen=True)
class Settings:
    """Everything an operator can set; each field is a key of `additional_config["steersman"]`."""

    library: str = field(default_factory=lambda: str(default_home() / "library"))
    """Directory of the vector library; every worker must be able to read it."""
    bank_rows: int = 4096
    """Rows of the bank: one row holds one vector of one site and layer (hidden x 4 bytes)."""
    max_waiting: int = 256
    """How many requests may wait for rows of the bank, in each engine; the next is a 503."""
    max_terms: int = 8
    """K: how many vectors of one request may meet at one site and layer."""
    max_vectors: int = 32
    """How many vectors one request may name."""
    max_segments: int = 4
    """How many stretches with different sets of active vectors a request may have."""
    max_steps: int = 64
    """How many generation steps a vector with a tensor for each may have."""
    max_schedule_total: int = 8192
    """How many coefficients all schedules of a request may list together."""
    max_plan_terms: int = 16_384
    """How many terms a request may have, counted for each step or stretch of tokens anew: what a
    worker writes for it while others wait."""
    max_dynamic: int = 8
    """How many dynamic requests run at once in each engine; the next ones wait for their turn."""
    max_coefficient: float = 10_000.0
    """Largest absolute coefficient that is accepted."""
    max_relative_dose: float | None = None
    """Largest ||c v|| / median ||h|| at a layer that is accepted; None sets no limit."""
    max_total_dose: float | None = None
    """Largest sum of these over all layers that is accepted; None sets no limit."""
    enforce_safe_range: bool = False
    """Refuse coefficients outside a vector's `safe_range`."""
    require_fingerprint: bool = False
    """Refuse vectors whose file names the fingerprint of another model."""
    max_upload_bytes: int = 64 * 2**20
    """Largest body of an upload to /v1/steering/vectors."""
    max_extract_rows: int = 4096
    """Most texts of one extraction."""
    max_jobs: int = 8
    """How many extractions may run or wait in one API server; one runs at a time."""
    extract_share: float = 0.25
    """Share of the engine that an API server's extractions take while its clients use it."""
    api_keys_file: str | None = None
    """YAML file, or directory of such, with the hashes and rights of keys; None: no keys."""
    audit_log: str | None = None
    """File that gets a line of JSON for every change; None: standard output."""
    max_library_vectors: int = 10_000
    """Names that the library may have."""
    max_body_bytes: int = 16 * 2**20
    """Largest body of any request but an upload."""
    max_body_containers: int = 10_000
    """Lists and objects that a JSON body may hold; ten times as many keys."""
    max_body_depth: int = 100
    """How deep lists and objects may lie inside one another."""
    max_body_values: int = 1_200_000
    """Members that the lists and objects of a body may have together; a token id is one."""
    max_input_items: int = 1000
    """Items that the `input` of a response, or the `messages` of a batch, may have; the `tools` of
    a response a quarter of that."""
    body_timeout: float = 60.0
    """Seconds that a body may take to arrive; a slower one is a 408."""
    calibrate: bool = True
    """Measure the model's median residual norms when they are not in the cache yet."""

    @property
    def most_segments(self) -> int:
        """Most table entries of one request."""
        return self.max_segments + self.max_steps

    @classmethod
    def read(cls, additional_config: object) -> Self:
        """Settings out of vLLM's `additional_config`; unknown keys and wrong values raise."""
        section: Any = {}
        if isinstance(additional_config, Mapping):
            section = additional_config.get("steersman", {})
        if not isinstance(section, Mapping):
            raise ValueError('additional_config["steersman"] must be an object')
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(section) - known):
            raise ValueError(
                f"unknown steersman setting {unknown[0]!r}; known: {', '.join(sorted(known))}"
            )
        settings = cls(**section)
        settings._check()
        return settings

    def _check(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"steersman setting {name} must be a whole number of at least 1")
        if (
            isinstance(self.max_waiting, bool)
            or not isinstance(self.max_waiting, int)
            or self.max_waiting < 0
        ):
            raise ValueError("steersman setting max_waiting must be a whole number, 0 or more")
        for name in ("max_coefficient", "max_relative_dose", "max_total_dose", "body_timeout"):
            value = getattr(self, name)
            if value is None and name in ("max_relative_dose", "max_total_dose"):
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value < math.inf:
                raise ValueError(f"steersman setting {name} must be a positive number")
        share = self.extract_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError("steersman setting extract_share must be above 0 and at most 1")
        if not isinstance(self.library, str) or not self.library:
            raise ValueError("steersman setting library must be the path of a directory")
        for name in ("api_keys_file", "audit_log"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ValueError(f"steersman setting {name} must be a path, or null")
        for name in ("enforce_safe_range", "require_fingerprint", "calibrate"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"steersman setting {name} must be true or false")

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that `read` takes back."""
        return asdict(self)
