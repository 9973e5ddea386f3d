"""Models of the bodies and answers of the vector routes."""

from dataclasses import asdict
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr

from steersman.server.chat.field import PositionRange
from steersman.vectors.library.library import Entry
from steersman.vectors.tensors import tensor_name

Positions = Literal["generation", "after_prompt", "prompt", "all"] | PositionRange


class TensorInfo(BaseModel):
    """One tensor of a vector: float32, [hidden] or [steps, hidden]."""

    name: str
    site: str
    layer: int
    shape: list[int]


class BaseModelInfo(BaseModel):
    """The model on which a vector was made; null is what its file does not have."""

    id: str | None
    hidden_size: int | None
    num_layers: int | None
    fingerprint: str | None


class ListedVector(BaseModel):
    """A vector in the library, in the form of lists."""

    id: str = Field(description="Its name; requests may also write name@<12+ hex of a digest>.")
    object: Literal["steering.vector"] = "steering.vector"
    digest: str = Field(description="sha256 over the tensors and what the vector does.")
    created_at: int = Field(description="When the name was made, Unix seconds.")
    updated_at: int = Field(description="When the name last changed, Unix seconds.")
    description: str
    method: str | None
    base_model: BaseModelInfo | None
    base_model_matches: bool | None = Field(
        description="Whether its base model is the served one; null where its file gives no "
        "fingerprint."
    )
    fits: bool = Field(description="Whether the served model can be steered with it.")
    misfit: str | None = Field(description="Why it does not fit; null where it does.")
    hidden_size: int
    coefficient: float = Field(description="Default strength.")
    layers: list[int] = Field(description="Default layers.")
    positions: Positions = Field(description="Default positions.")
    operation: str = Field("add", description="What it does to the stream by default.")
    operation_settings: dict[str, Any] = Field({}, description="The settings of its operation.")
    safe_range: tuple[float, float] | None = Field(
        description="Lowest and highest coefficient at which the text stayed sound."
    )
    licence: str | None
    made_at: str | None = Field(description="When the vector was made, ISO 8601.")
    tensors: list[TensorInfo]
    bytes: int = Field(description="Size of its file.")
    versions: list[str] = Field(description="Digests this name has stood for, newest first.")

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """`entry` in the form that clients see."""
        base = entry.base_model
        return cls(
            **cls._long_fields(entry),
            id=entry.name,
            digest=entry.digest,
            created_at=entry.created_at,
            updated_at=entry.updated_at,
            description=entry.description,
            method=entry.method,
            base_model=None if base is None else BaseModelInfo(**asdict(base)),
            base_model_matches=entry.base_model_matches,
            fits=entry.misfit is None,
            misfit=entry.misfit,
            hidden_size=entry.hidden_size,
            coefficient=entry.coefficient,
            layers=list(entry.layers),
            positions=_positions(entry),
            operation=entry.operation.name,
            operation_settings=entry.operation.settings,
            safe_range=entry.safe_range,
            licence=entry.licence,
            made_at=entry.made_at,
            tensors=[
                TensorInfo(name=tensor_name(key), site=key[0], layer=key[1], shape=list(shape))
                for key, shape in entry.tensors.items()
            ],
            bytes=entry.size,
            versions=list(entry.versions),
        )

    @classmethod
    def _long_fields(cls, _entry: Entry) -> dict[str, Any]:
        return {}


class Vector(ListedVector):
    """A vector in the library, with all of its fields."""

    method_settings: dict[str, Any]
    norms: dict[str, float] = Field(description="Length of each tensor, as far as the file says.")

    @classmethod
    def _long_fields(cls, entry: Entry) -> dict[str, Any]:
        return {"method_settings": entry.method_settings, "norms": entry.norms}


class VectorList(BaseModel):
    """A page of vectors, by name, without `method_settings` and `norms`. For the next page, send
    `last_id` as `after`. While `has_more` is true a page may be shorter than `limit`."""

    object: Literal["list"] = "list"
    data: list[ListedVector]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VectorDeleted(BaseModel):
    """The name is deleted. Requests in flight finish with its vector."""

    id: str
    object: Literal["steering.vector.deleted"] = "steering.vector.deleted"
    deleted: Literal[True] = True


class VectorPatch(BaseModel):
    """The changes; a key that is left out stays unchanged."""

    model_config = ConfigDict(extra="forbid")

    description: StrictStr | None = None
    coefficient: StrictFloat | None = Field(None, allow_inf_nan=False)
    layers: list[StrictInt] | None = None
    positions: Positions | None = None
    safe_range: tuple[StrictFloat, StrictFloat] | None = None
    digest: StrictStr | None = Field(
        None, description="The content in the library that the name stands for from now on."
    )


class Capabilities(BaseModel):
    """What this server can steer, and its limits."""

    model_config = ConfigDict(extra="allow")

    object: Literal["steering.capabilities"] = "steering.capabilities"
    version: str
    model: str
    num_layers: int
    hidden_size: int
    fingerprint: str | None = None
    sites: list[str]
    aliases: list[str] = Field(
        [], description="Sites whose additions are made at `resid_post`: in sum they are the same."
    )
    operations: list[str] = Field(["add"], description="What vectors may do to the stream here.")
    reading_sites: list[str] = Field(
        [], description="Sites of vectors whose operation is not `add`, and of those beside them."
    )
    reads: dict[str, list[str]] | None = Field(
        None,
        description="What `read` may say: its `sites`, `measures` and `tokens`; null: nothing.",
    )
    positions: list[str] | None = None
    schedules: list[str] | None = Field(
        None, description="How a coefficient may go from token to token."
    )
    gates: dict[str, Any] | None = Field(
        None, description="What gates take; null where there are none."
    )
    dynamic: dict[str, Any] | None = Field(
        None, description="What dynamic composition takes; null where there is none."
    )
    default_preset: dict[str, Any] | None = Field(
        None,
        description="The preset of requests that do not say how they are steered: `preset`, "
        "`source` (key or server), and `locked`, true if no request may say; null: none.",
    )
    inline_vectors: bool = Field(
        False, description="Whether the caller's requests may bring vectors with them."
    )
    enforce_safe_range: bool = Field(
        False, description="Whether coefficients outside a vector's safe range are refused."
    )
    require_fingerprint: bool = Field(
        False, description="Whether vectors that name another model's fingerprint are refused."
    )
    median_norms: dict[str, float] | None = Field(
        None, description="Median length of the residual stream at <site>.<layer>."
    )
    limits: dict[str, float | int | None]


class ErrorBody(BaseModel):
    """What is wrong, where, and what to do about it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """OpenAI's envelope of an error."""

    error: ErrorBody


def _positions(entry: Entry) -> Any:
    if isinstance(entry.positions, str):
        return entry.positions
    return PositionRange(**entry.positions)
