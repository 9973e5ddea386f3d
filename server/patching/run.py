"""The job: captures both prompts, makes each patched run, and fills the table."""

from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from steersman.server.activations.collect import place_of
from steersman.server.chat.steered_request import SteeringContext
from steersman.server.errors import NotAllowed
from steersman.server.extraction.capture import CaptureClient, Work, take_all
from steersman.server.extraction.context import ExtractionContext
from steersman.server.extraction.examples import Example
from steersman.server.extraction.job import Job, Phase, on_disk
from steersman.server.patching.asking import Asking
from steersman.server.patching.prompts import READING, Patches
from steersman.server.patching.request import Direction
from steersman.steering.plan import Plan, PlanInvalid, PlannedVector
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.library.sent import SentVectors
from steersman.vectors.operation import Operation
from steersman.vectors.tensors import HookPoint, tensor_name

AT_ONCE: Final = 32
"""Most runs in flight; each is a request for each of both answers."""
REPLACE: Final = Operation("replace")
SAME: Final = 1e-3
"""A difference between both prompts in the measure below which no share of it is given."""


class PatchContext(NamedTuple):
    """What patching needs of the server."""

    extraction: ExtractionContext
    steering: SteeringContext
    sent: SentVectors
    """Where workers find the streams that are put into a prompt."""
    num_layers: int
    most_runs: int


class Cell(NamedTuple):
    """One patched run."""

    position: int
    direction: Direction
    point: int
    """Index into `Patches.points`."""


def check(patches: Patches, context: PatchContext) -> None:
    """Raise `VectorInvalid`, `PlanInvalid` or `NotAllowed` for hook points that the model has not,
    or at which nothing may be replaced here."""
    limits, allowed = context.steering.limits, context.steering.library.operations
    if REPLACE.name not in allowed:
        raise NotAllowed(
            f"patching replaces the stream, and this key may not use the operation "
            f"`{REPLACE.name}`; it may use {', '.join(allowed)} (operations in the keys file)",
            param="hook_points",
            code="operation_not_allowed",
        )
    place_of(patches.points, context.extraction)
    vectors = (_planned(f"sha256:{'0' * 64}", point, 0) for point in patches.points)
    for vector in vectors:
        try:
            limits.check(Plan((vector,)))
        except PlanInvalid as error:
            error.param = "hook_points"
            raise


async def run(job: Job, patches: Patches, context: PatchContext) -> None:
    """Make the runs and put their table into `job.patch`. Raises what the engine and the library
    raise."""
    await job.enter(Phase.CAPTURING)
    client = CaptureClient(context.extraction.engine, patches.points, reproducible=True)
    prompts = patches.clean, patches.corrupted
    streams = {prompt: await _stream(client, prompt) for prompt in prompts}
    await job.enter(Phase.PATCHING)
    cells = [
        Cell(position, direction, point)
        for position in patches.positions
        for direction in patches.directions
        for point in range(len(patches.points))
    ]
    job.total = len(cells)
    asking = Asking(client, context.steering, patches.answers)
    clean, corrupted = [await asking.difference(prompt) for prompt in prompts]
    table = Table(patches, clean, corrupted)
    files: dict[tuple[Direction, int], bytes] = {}

    async def take(n: int) -> None:
        cell = cells[n]
        at = cell.direction, cell.position
        if at not in files:
            files.clear()  # Cells come by position and direction: what was before is done with.
            stream = streams[patches.source(cell.direction)][cell.position]
            files[at] = await on_disk(_file, patches.points, stream)
        # Before each run, although the file may be there: what was used last stays longest.
        entry = await on_disk(context.sent.keep, files[at])
        plan = Plan((_planned(entry.digest, patches.points[cell.point], cell.position),))
        table.put(cell, await asking.difference(patches.into(cell.direction), plan))

    whole = [*patches.clean, *patches.clean, *(token for one in patches.answers for token in one)]
    example = Example(("patch", 0), "patch", tuple(whole), len(whole) - 1, len(whole))
    place = place_of(patches.points, context.extraction)
    work = Work(job, READING, [example] * len(cells), client, place, context.extraction)
    await take_all(work, take, AT_ONCE)
    job.patch = table.to_json(context.extraction.tokenizer)
    job.warnings += table.warnings()


async def _stream(client: CaptureClient, prompt: tuple[int, ...]) -> NDArray[np.float32]:
    """The stream of each token, float32 [tokens, points, hidden]."""
    example = Example(("patch", 0), "patch", prompt, 0, len(prompt))
    return (await client.capture(example, each=True)).values


def _file(points: tuple[HookPoint, ...], stream: NDArray[np.float32]) -> bytes:
    tensors = {point: torch.from_numpy(stream[n].copy()) for n, point in enumerate(points)}
    return write_vector(SteeringVector(tensors, operation=REPLACE))


def _planned(digest: str, point: HookPoint, position: int) -> PlannedVector:
    return PlannedVector(digest, 1.0, (point,), (position, position + 1), operation=REPLACE)


class Table:
    """The measure in each patched run."""

    def __init__(self, patches: Patches, clean: float, corrupted: float) -> None:
        """`clean`, `corrupted`: the measure behind both prompts as they are."""
        self._patches = patches
        self._clean, self._corrupted = clean, corrupted
        shape = len(patches.points), len(patches.positions)
        self._found = {direction: np.full(shape, np.nan) for direction in patches.directions}

    def put(self, cell: Cell, measure: float) -> None:
        """Note what one run gave."""
        at = cell.point, cell.position - self._patches.positions.start
        self._found[cell.direction][at] = measure

    def effect(self, direction: Direction) -> NDArray[np.float64] | None:
        """[points, positions]: what share of the difference between both prompts a patch makes; 0
        is nothing, 1 all of it. None where there is next to no difference."""
        between = self._clean - self._corrupted
        if abs(between) < SAME:
            return None
        found = self._found[direction]
        moved = found - self._corrupted if direction == "denoising" else self._clean - found
        return moved / between

    def warnings(self) -> list[dict[str, str]]:
        """What is likely not meant."""
        if self._clean - self._corrupted >= SAME:
            return []
        return [
            {
                "code": "no_contrast",
                "message": f"log p(answers[0]) - log p(answers[1]) is {self._clean:.3g} behind "
                f"clean and {self._corrupted:.3g} behind corrupted: it should be larger behind "
                "clean; look for prompts that the model tells apart, or swap the answers",
            }
        ]

    def to_json(self, tokenizer: Any) -> dict[str, Any]:
        """The table as jobs show it."""
        patches = self._patches
        tokens = {
            name: [tokenizer.decode([prompt[n]]) for n in patches.positions]
            for name, prompt in (("clean", patches.clean), ("corrupted", patches.corrupted))
        }
        return {
            "hook_points": [tensor_name(point) for point in patches.points],
            "positions": list(patches.positions),
            "tokens": tokens,
            "clean": self._clean,
            "corrupted": self._corrupted,
            **{direction: self._rows(direction) for direction in patches.directions},
        }

    def _rows(self, direction: Direction) -> dict[str, Any]:
        effect = self.effect(direction)
        return {
            "difference": self._found[direction].round(5).tolist(),
            "effect": None if effect is None else effect.round(5).tolist(),
        }
