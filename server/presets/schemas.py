"""What the routes of presets take and give, as the OpenAPI document shows it."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, StrictBool, StrictStr

from steersman.server.chat.field import SteeringField
from steersman.vectors.library.presets import Preset

# The schema is pydantic's, the reading is ours (SteeringField.read), so that errors name the key.
Steering = SkipValidation[SteeringField]


class PresetInfo(BaseModel):
    """A preset: a name for a `steering` value."""

    name: str = Field(description="Requests use it as the model `<served model>:<name>`.")
    object: Literal["steering.preset"] = "steering.preset"
    digest: str = Field(description="sha256 over what it stands for.")
    steering: dict[str, Any] = Field(description="The value of a request's `steering` field.")
    follow: bool = Field(
        description="Whether it uses what the names of its vectors stand for at each request; "
        "else it keeps to the content that they had."
    )
    pins: list[str] = Field(description="The digest of each of its vectors; empty if it follows.")
    description: str
    created_at: int = Field(description="Unix seconds.")
    updated_at: int = Field(description="Unix seconds.")
    versions: list[str] = Field(description="Digests of what it has stood for, newest first.")

    @classmethod
    def of(cls, preset: Preset) -> Self:
        """`preset` as clients see it."""
        return cls(
            name=preset.name,
            digest=preset.digest,
            steering=dict(preset.now.steering),
            follow=preset.follow,
            pins=list(preset.now.pins),
            description=preset.description,
            created_at=preset.created_at,
            updated_at=preset.updated_at,
            versions=[version.digest for version in preset.versions],
        )


class PresetList(BaseModel):
    """All presets, by name."""

    object: Literal["list"] = "list"
    data: list[PresetInfo]


class PresetCreate(BaseModel):
    """A new preset."""

    model_config = ConfigDict(extra="forbid")

    name: StrictStr = Field(
        description="1 to 128 letters, digits, '.', '_' and '-', beginning with a letter or digit."
    )
    steering: Steering = Field(description="The value of a request's `steering` field.")
    follow: StrictBool = Field(
        False,
        description="Whether it uses what the names of its vectors stand for at each request. "
        "Without it, it keeps to the content that they have now.",
    )
    description: StrictStr = ""


class PresetPatch(BaseModel):
    """What changes; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    steering: Steering | None = Field(None, description="What it stands for from now on.")
    follow: StrictBool | None = None
    description: StrictStr | None = None


class PresetDeleted(BaseModel):
    """A preset is gone."""

    name: str
    object: Literal["steering.preset.deleted"] = "steering.preset.deleted"
    deleted: Literal[True] = True
