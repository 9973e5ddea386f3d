"""The stream of some texts, through the engine, by extraction's captures and at its pace."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from steersman.server.activations.request import ActivationsRequest, TokenRange
from steersman.server.extraction.capture import CaptureClient, Work, take_all
from steersman.server.extraction.context import ExtractionContext
from steersman.server.extraction.examples import BadSample, Example, Reader
from steersman.server.extraction.fit import Place
from steersman.server.extraction.job import Job, Stop, in_thread
from steersman.server.extraction.request import ExtractRequest
from steersman.server.extraction.samples import Sample
from steersman.steering.plan import PlanInvalid
from steersman.vectors.errors import VectorInvalid
from steersman.vectors.tensors import HookPoint, tensor_name

AT_ONCE: Final = 16
"""Most texts in flight."""


async def collect(wanted: ActivationsRequest, context: ExtractionContext, most_bytes: int) -> bytes:
    """A safetensors file with the stream of the texts: float32 `[rows, hidden]` for each hook
    point, `offsets` int64 [texts + 1], between which are the rows of each text, and, where tokens
    come one by one, `token_ids` int64 [rows]. Raises `VectorInvalid` for more than `most_bytes` of
    them, and `CaptureFailed`."""
    points = wanted.points()
    place = place_of(points, context)
    job = Job(secrets.token_hex(8), "activations", "activations")
    # Extraction's words for it: `mean` as it has it, and the last token.
    rule = "mean" if wanted.tokens == "mean" else "last"
    request = ExtractRequest.model_validate(
        {"method": "mean_difference", "name": "activations", "tokens": rule}
    )
    reader = context.reader(request)
    examples = await in_thread(job, partial(_examples, wanted, reader))
    offsets = np.cumsum([0, *(_rows(wanted, example) for example in examples)])
    hidden = place.base_model.hidden_size or 0
    size = 4 * int(offsets[-1]) * len(points) * hidden
    if size > most_bytes:
        raise VectorInvalid(
            f"{offsets[-1]} rows at {len(points)} hook points take {size} bytes, at most "
            f"{most_bytes} are sent (--max-activation-bytes): name fewer hook points, or send "
            "fewer texts or tokens",
            param="texts",
            code="too_many_rows",
        )
    values = np.empty((len(points), int(offsets[-1]), hidden), np.float32)
    client = CaptureClient(context.engine, points)

    async def take(n: int) -> None:
        found = await client.capture(examples[n], each=wanted.each)
        # [tokens, points, hidden], or of a mean [points, hidden].
        rows = found.values if wanted.each else found.values[None]
        values[:, offsets[n] : offsets[n + 1]] = rows.transpose(1, 0, 2)

    work = Work(job, request, examples, client, place, context)
    await take_all(work, take, AT_ONCE)
    return await in_thread(job, lambda _: _file(wanted, points, examples, values, offsets))


def place_of(points: Sequence[HookPoint], context: ExtractionContext) -> Place:
    """What is known of the last hook point. Raises `VectorInvalid` for one that the model has
    not."""
    for point in points:
        try:
            place = context.place(point.site, (point.layer,))
        except (VectorInvalid, PlanInvalid) as error:
            error.param = "hook_points"
            raise
    return place


def _examples(wanted: ActivationsRequest, reader: Reader, stop: Stop) -> list[Example]:
    found = []
    for n, text in enumerate(wanted.texts):
        stop()
        try:
            example = reader.read(Sample(n + 1, ("text", n + 1), "text", text, None))
            found.append(_of_range(wanted, example))
        except BadSample as error:
            raise VectorInvalid(
                f"text {n} {error}; leave it out", param=f"texts[{n}]", code="bad_text"
            ) from None
    return found


def _of_range(wanted: ActivationsRequest, example: Example) -> Example:
    """`example` with the tokens that are wanted of it. Raises `BadSample` if it has none."""
    end = len(example.tokens)
    if wanted.tokens == "all":
        return replace(example, start=0, stop=end)
    if not isinstance(wanted.tokens, TokenRange):
        return example
    start, stop, _ = slice(wanted.tokens.start, wanted.tokens.stop).indices(end)
    if start >= stop:
        raise BadSample(f"has {end} tokens, none of them in the range")
    return replace(example, start=start, stop=stop)


def _rows(wanted: ActivationsRequest, example: Example) -> int:
    return example.stop - example.start if wanted.each else 1


def _file(
    wanted: ActivationsRequest,
    points: Sequence[HookPoint],
    examples: Sequence[Example],
    values: NDArray[np.float32],
    offsets: NDArray[np.int64],
) -> bytes:
    tensors: dict[str, NDArray[Any]] = {
        tensor_name(point): values[n] for n, point in enumerate(points)
    }
    tensors["offsets"] = offsets.astype(np.int64)
    if wanted.each:
        ids = [one.tokens[one.start : one.stop] for one in examples]
        tensors["token_ids"] = np.concatenate([np.array(part, np.int64) for part in ids])
    tokens = wanted.tokens
    said = tokens.model_dump() if isinstance(tokens, TokenRange) else tokens
    return save(tensors, {"steersman": json.dumps({"tokens": said, "texts": len(examples)})})
