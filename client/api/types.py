"""What the server sends, as typed dictionaries; `tests/client/api` compares their keys with the
server's own schemas."""

from typing import Any, Literal, NotRequired, TypedDict


class TensorInfo(TypedDict):
    """One tensor of a vector: float32, [hidden] or [steps, hidden]."""

    name: str
    site: str
    layer: int
    shape: list[int]


class Vector(TypedDict):
    """A vector in the library; in a list it has no `method_settings` and no `norms`."""

    id: str
    object: Literal["steering.vector"]
    digest: str
    created_at: int
    updated_at: int
    description: str
    method: str | None
    base_model: dict[str, Any] | None
    base_model_matches: bool | None
    fits: bool
    misfit: str | None
    hidden_size: int
    coefficient: float
    layers: list[int]
    positions: str | dict[str, int]
    operation: str
    operation_settings: dict[str, Any]
    safe_range: list[float] | None
    licence: str | None
    made_at: str | None
    tensors: list[TensorInfo]
    bytes: int
    versions: list[str]
    method_settings: NotRequired[dict[str, Any]]
    norms: NotRequired[dict[str, float]]


class Preset(TypedDict):
    """A name for a `steering` value."""

    name: str
    object: Literal["steering.preset"]
    digest: str
    steering: dict[str, Any]
    follow: bool
    pins: list[str]
    description: str
    created_at: int
    updated_at: int
    versions: list[str]


class Job(TypedDict):
    """An extraction, or a patching job."""

    id: str
    object: Literal["steering.job"]
    type: Literal["extract", "patch"]
    status: Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
    phase: str
    method: str
    name: str
    created_at: int
    started_at: float | None
    ended_at: float | None
    progress: dict[str, float | None]
    bad_rows: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    warnings: list[dict[str, str]]
    vectors: list[str]
    patch: NotRequired[dict[str, Any] | None]
    """Of a patching job: its table, once it has succeeded."""
    error: dict[str, Any] | None


class GateReceipt(TypedDict):
    """What a gate measured and decided."""

    id: str
    digest: str
    site: str
    layer: int
    measure: str
    above: NotRequired[float]
    below: NotRequired[float]
    over: str
    tokens: int
    passed_tokens: int
    passed: NotRequired[bool | list[bool | None] | None]
    value: NotRequired[float | list[float | None] | None]


class VectorReceipt(TypedDict):
    """What one vector of a request did."""

    id: str
    digest: str
    site: str | list[str]
    layers: list[int]
    coefficient: float
    positions: str | dict[str, Any]
    relative_dose: dict[str, float] | None
    total_dose: float | None
    outside_safe_range: bool | None
    base_model_matches: bool | None
    steered_tokens: int
    gate: NotRequired[GateReceipt]
    operation: NotRequired[str]
    min: NotRequired[float]
    max: NotRequired[float]
    unit: NotRequired[str]
    value: NotRequired[float]
    multiply: NotRequired[float]
    angle: NotRequired[float]
    adaptive: NotRequired[bool]
    schedule: NotRequired[str | list[float]]
    over: NotRequired[int]
    steps: NotRequired[int]
    after: NotRequired[str]


class ReadReceipt(TypedDict):
    """What was read of the stream along one vector."""

    id: str
    digest: str
    site: str | list[str]
    layers: list[int]
    measure: Literal["projection", "cosine"]
    tokens: Literal["answer", "prompt", "last"]
    values: dict[str, list[float]] | list[dict[str, list[float]]]


class Receipt(TypedDict):
    """How a request was steered."""

    vectors: list[VectorReceipt]
    dynamic: dict[str, Any] | list[dict[str, Any]] | None
    source: Literal["request", "model", "key", "server"]
    preset: str | None
    reads: NotRequired[list[ReadReceipt]]
    keep_norm: NotRequired[bool]
    note: NotRequired[str]
    steps_per_token: NotRequired[float | None]


class Capabilities(TypedDict):
    """What the server can steer, and its limits."""

    object: Literal["steering.capabilities"]
    version: str
    model: str
    num_layers: int
    hidden_size: int
    fingerprint: str | None
    sites: list[str]
    aliases: list[str]
    operations: list[str]
    reading_sites: list[str]
    reads: dict[str, list[str]] | None
    positions: list[str] | None
    schedules: list[str] | None
    gates: dict[str, Any] | None
    dynamic: dict[str, Any] | None
    default_preset: dict[str, Any] | None
    inline_vectors: bool
    enforce_safe_range: bool
    require_fingerprint: bool
    median_norms: dict[str, float] | None
    limits: dict[str, float | int | None]
