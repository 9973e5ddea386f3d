"""The receipt on an answer: in full in its body or last chunk, in short in a header.

The header `Steering-Receipt` has what is known before the first token. A receipt has a note if the
steering could not change anything that is returned.
"""

import json
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import JSONResponse, Response, StreamingResponse

from steersman.server.chat.sse import LOST, Keep, with_receipts
from steersman.server.error_response import response as error_response
from steersman.server.errors import Unsaid
from steersman.server.metrics import Outcome
from steersman.steering.plan import Plan, PlannedVector
from steersman.steering.plan.positions import answer_range

if TYPE_CHECKING:
    from steersman.server.chat.steered_request import SteeredRequest

HEADER: Final = "Steering-Receipt"
MAX_LENGTH: Final = 4096
"""Characters. Proxies take 8 KiB for all headers of an answer."""
_FORMS: Final = (
    (),
    ("relative_dose",),
    ("relative_dose", "layers"),
    ("relative_dose", "layers", "schedule", "over", "steps", "after", "positions", "site"),
)
"""Fields of a vector that the header leaves out: the first of these that makes it short enough."""
UNCHANGED: Final = (
    "the steering could not change this answer: all steered tokens come after what was "
    "scored or sampled; to score a text, steer its own tokens, with positions `all` or `prompt`"
)
ONLY_READS: Final = "the request reads and steers nothing: it names no `vectors`"
ZERO: Final = "the steering could not change this answer: every coefficient is 0"


def with_receipt(
    response: Response, steered: "SteeredRequest", keep: Keep | None = None, path: str = ""
) -> Response:
    """`response` with the receipt of `steered`, which is closed when the answer is complete.

    A header has the part of the receipt that is known already. `keep` is called with a response's
    id and its receipt. `path`: the route. Errors pass unchanged. If no worker has reported that it
    steered the answer, the result is an error, because a steered request must never be answered
    unsteered.
    """
    if isinstance(response, StreamingResponse):
        chunks = (
            c if isinstance(c, str) else bytes(c).decode() async for c in response.body_iterator
        )
        response.body_iterator = with_receipts(chunks, steered, keep)
        response.headers.update(receipt_headers(steered.promise()))
        # A response that is never sent never runs its iterator: the request is collected with it.
        response.steering_session = steered  # type: ignore[attr-defined]
        return response
    if response.status_code != 200 or not steered.was_steered():
        steered.close(Outcome.FAILED)
        lost = response.status_code == 200
        return _lost(response, path) if lost else response
    answer = json.loads(bytes(response.body))
    answer["steering"] = steered.receipt()
    if keep is not None:
        keep(str(answer.get("id")), answer["steering"])
    headers = {k: v for k, v in response.headers.items() if k.lower() != "content-length"}
    headers |= receipt_headers(steered.promise())
    steered.close(Outcome.COMPLETED)
    return JSONResponse(answer, headers=headers, background=response.background)


def _lost(answer: Response, path: str) -> Response:
    refused = error_response(Unsaid(LOST["error"]["message"]), path)
    refused.background = answer.background
    return refused


def header(receipt: dict[str, Any]) -> str:
    """The receipt without counts, as compact JSON in ASCII of at most `MAX_LENGTH` characters.
    `truncated` is true if a part was left out."""
    for omitted in _FORMS:
        text = _text(receipt, omitted, len(receipt["vectors"]), bool(omitted))
        if len(text) <= MAX_LENGTH:
            return text
    most = len(receipt["vectors"])
    while most and len(text) > MAX_LENGTH:
        most //= 2
        text = _text(receipt, _FORMS[-1], most, True)
    return text


def receipt_headers(receipt: dict[str, Any]) -> dict[str, str]:
    """The receipt's header, and the CORS header that lets pages of other origins read it."""
    return {HEADER: header(receipt), "Access-Control-Expose-Headers": HEADER}


def _text(receipt: dict[str, Any], omitted: tuple[str, ...], most: int, truncated: bool) -> str:
    said: dict[str, Any] = {
        **receipt,
        "vectors": [
            {key: value for key, value in part.items() if key not in omitted}
            for part in receipt["vectors"][:most]
        ],
    }
    if truncated:
        said["truncated"] = True
    return json.dumps(said, separators=(",", ":"), allow_nan=False)


def note(plan: Plan, sampled: int | None) -> str | None:
    """The note on the receipt of `plan`, None if there is nothing to note. `sampled`: the most new
    tokens that are returned, None if the request sets no limit."""
    if plan.dynamic is not None:
        return None
    if not plan.vectors:
        return ONLY_READS
    if all(vector.coefficient == 0 and not vector.schedule for vector in plan.vectors):
        return ZERO
    # New token j is made at the j-th token from the prompt's last on; what is scored of the prompt
    # is made before that.
    first = [_first(vector) for vector in plan.vectors]
    behind = sampled is not None and all(at is not None and at >= sampled for at in first)
    return UNCHANGED if behind else None


def _first(vector: PlannedVector) -> int | None:
    """The first steered token, counted from the last of the prompt; None if it lies before that, or
    depends on the length of the prompt."""
    rule = vector.positions
    if (own := answer_range(rule)) is not None:
        return own[0] + 1
    if rule == "generation" or (isinstance(rule, tuple) and rule[0] == -1):
        return 0
    return 1 if rule == "after_prompt" else None
