"""Paths of the server's API."""

from typing import Final
from urllib.parse import quote

STEERING: Final = "/v1/steering"
VECTORS: Final = f"{STEERING}/vectors"
JOBS: Final = f"{STEERING}/jobs"
PRESETS: Final = f"{STEERING}/presets"
CAPABILITIES: Final = f"{STEERING}/capabilities"
PATCH: Final = f"{STEERING}/patch"
EXTRACT: Final = f"{VECTORS}/extract"
ACTIVATIONS: Final = f"{STEERING}/activations"
CHAT: Final = "/v1/chat/completions"


def vector(vector_id: str) -> str:
    """The path of one vector; `vector_id` may have any characters."""
    return f"{VECTORS}/{segment(vector_id)}"


def job(job_id: str) -> str:
    """The path of one job; `job_id` may have any characters."""
    return f"{JOBS}/{segment(job_id)}"


def heat_map(job_id: str) -> str:
    """The path of a patching job's picture."""
    return f"{job(job_id)}/heat_map"


def preset(name: str) -> str:
    """The path of one preset, whatever its name is."""
    return f"{PRESETS}/{segment(name)}"


def segment(text: str) -> str:
    """`text` quoted as one segment of a path."""
    escaped = quote(text, safe="@")
    # No id is "." or "..", which would be directions.
    return escaped if text.strip(".") else escaped.replace(".", "%2E")
