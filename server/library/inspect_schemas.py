"""Models of the answer of `GET /v1/steering/vectors/{id}/inspect`."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class TokenEffect(BaseModel):
    """A token of the vocabulary, and its logit in the lens."""

    id: int
    text: str
    logit: float


class Similar(BaseModel):
    """Another vector of the library, and its cosine with this one."""

    id: str
    cosine: float


class TensorInspection(BaseModel):
    """One tensor of the vector. With steps, lengths are those of the longest step; cosines and
    tokens are those of the mean over the steps."""

    name: str
    site: str
    layer: int
    shape: list[int]
    default: bool = Field(description="Whether its layer is among the vector's default layers.")
    norm: float
    relative_norm: float | None = Field(
        description="Norm over the median norm of the residual stream at its layer: the relative "
        "dose of coefficient 1. Null where the model is not calibrated."
    )
    top_tokens: list[TokenEffect] = Field(description="Raised most by it, the most first.")
    bottom_tokens: list[TokenEffect] = Field(description="Lowered most by it, the most first.")
    similar: list[Similar] = Field(description="By size of the cosine, whatever its sign.")


class Similarity(BaseModel):
    """Cosines with the other vectors at the same site and layer; null for a vector without a tensor
    there."""

    tensors: list[str]
    vectors: list[str]
    cosines: list[list[float | None]] = Field(description="[tensor][vector]")


class Inspection(BaseModel):
    """What can be learned about a vector without generating text."""

    object: Literal["steering.vector.inspection"] = "steering.vector.inspection"
    id: str
    digest: str
    coefficient: float
    layers: list[int]
    recommended: dict[str, Any] | None = Field(
        description="The layer and the coefficient that the extraction which made it recommends."
    )
    not_recommended: str | None = Field(
        description="Why that extraction recommends none; null where it does, or nothing is known."
    )
    final_norm: str | None = Field(
        description="The norm of the model through which the lens goes; null: it has none."
    )
    tensors: list[TensorInspection]
    similarity: Similarity
    not_compared: int = Field(
        description="Other vectors left out: of another model or width, unreadable, or over the "
        "limit of one comparison."
    )
