"""Model names that steer: `<served model>:<suffix>`.

The suffix is the name of a preset, or vectors with their coefficients, `cheerful@1.5,formal@-0.5`,
where a vector without one gets its own.
"""

from collections.abc import Collection
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

from steersman.server.chat.header_field import coefficient_of
from steersman.server.errors import ModelNotFound
from steersman.steering.plan import PlanInvalid
from steersman.vectors.errors import shown

_NEAR: Final = 5
_MAX_LENGTH: Final = 8192


class ModelName(NamedTuple):
    """A model name taken apart."""

    base: str
    """A name that is served, of a model or of an adapter."""
    suffix: str


def split(name: object, served: Collection[str]) -> ModelName | None:
    """`name` taken apart at the end of the longest name that is `served`; None where it is served
    itself, or begins with none."""
    if not isinstance(name, str) or name in served or ":" not in name:
        return None
    places = [n for n, letter in enumerate(name) if letter == ":" and name[:n] in served]
    return ModelName(name[: places[-1]], name[places[-1] + 1 :]) if places else None


def short_form(suffix: str) -> dict[str, Any]:
    """The `steering` value of a suffix that names vectors. Raises `PlanInvalid`."""
    if len(suffix) > _MAX_LENGTH:
        raise _wrong(f"it is over {_MAX_LENGTH} characters long")
    uses: list[dict[str, Any]] = []
    for part in suffix.split(","):
        name, at, number = part.strip().rpartition("@")
        use: dict[str, Any] = {"id": name if at else number}
        if at:
            use["coefficient"] = coefficient_of(number)
            if use["coefficient"] is None:
                raise _wrong(f"{shown(number)} is not a number: a coefficient follows the @")
        if not use["id"]:
            raise _wrong(f"{shown(part)} names no vector")
        uses.append(use)
    return {"vectors": uses}


def unknown(
    model: str, suffix: str, presets: Collection[str], vectors: Collection[str]
) -> Exception:
    """The error for a suffix that names no preset and no vector; says which are near."""
    names = {part.partition("@")[0].strip() for part in suffix.split(",")}
    known = sorted({*presets, *vectors})
    near = sorted({one for name in names for one in get_close_matches(name, known, _NEAR)})[:_NEAR]
    hint = f"; near it are {', '.join(near)}" if near else ""
    return ModelNotFound(
        f"the model {shown(model)} does not exist: {shown(suffix)} names no preset and no vector"
        f"{hint}. GET /v1/models lists presets, GET /v1/steering/vectors lists vectors",
        param="model",
    )


def _wrong(what: str) -> PlanInvalid:
    return PlanInvalid(
        f"model: {what}; behind the colon stands a preset, or cheerful@1.5,formal@-0.5",
        param="model",
        code="invalid_model_name",
    )
