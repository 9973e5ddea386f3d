"""The `X-Steering` header: the `steering` field for programs that can set only headers."""

import re
from typing import Any, Final

from steersman.server.middleware.body import BodyInvalid, Bounds, read
from steersman.steering.plan import PlanInvalid
from steersman.vectors.errors import shown

HEADER: Final = "X-Steering"
_BOUNDS: Final = Bounds(containers=2_000, depth=20, values=10_000)
_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


OFF: Final = object()
"""The header's value `null`: not steered, whatever else would steer."""


def coefficient_of(text: str) -> float | None:
    """`text` as a number; None if it is not a decimal one, as `nan` and `0x1` are not."""
    return float(text) if len(text) <= 64 and _NUMBER.fullmatch(text) else None


def read_header(lines: list[str]) -> Any:
    """The `steering` value in the header's `lines`; None if they are empty, `OFF` for `null`.

    `cheerful=1.5,formal=-0.5` names vectors with their coefficients; a name alone takes the
    vector's own coefficient. A value that begins with a brace is the field in JSON. Raises
    `PlanInvalid`.
    """
    said = [line.strip() for line in lines if line.strip()]
    if not said:
        return None
    if said == ["null"]:
        return OFF
    if any(line.startswith("{") for line in said):
        if len(said) > 1:
            raise _wrong("send it once where it is JSON")
        try:
            return read(said[0].encode("latin-1"), _BOUNDS)
        except BodyInvalid as error:
            raise _wrong(error.message.replace("the body", "the value")) from None
    uses: list[dict[str, Any]] = []
    for part in ",".join(said).split(","):
        name, equals, number = (text.strip() for text in part.partition("="))
        if not name:
            raise _wrong(f"{shown(part)} names no vector")
        use: dict[str, Any] = {"id": name}
        if equals:
            use["coefficient"] = coefficient_of(number)
            if use["coefficient"] is None:
                raise _wrong(f"{shown(number)} is not a number: a coefficient follows the =")
        if any(name == other["id"] for other in uses):
            raise _wrong(f"it names {shown(name)} twice")
        uses.append(use)
    return {"vectors": uses}


def _wrong(what: str) -> PlanInvalid:
    return PlanInvalid(
        f"{HEADER}: {what}; write it as cheerful=1.5,formal=-0.5, or as the JSON of the steering "
        "field",
        param=HEADER,
        code="invalid_header",
    )
