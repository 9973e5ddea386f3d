"""`directional_ablation`: candidates by place, tried on prompts that they were not made of."""

import random
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from steersman.server.extraction.capture import AT_ONCE, Work, stored, take_all
from steersman.server.extraction.examples import Example
from steersman.server.extraction.fit import trials_vector
from steersman.server.extraction.job import Phase, Stop, in_thread
from steersman.server.extraction.samples import SIDES
from steersman.server.extraction.trials.runs import Runs, SteeredRuns
from steersman.vectors.errors import ActivationsInvalid, VectorInvalid
from steersman.vectors.file.format import SteeringVector
from steersman.vectors.methods.ablation import (
    LAYERS,
    LogProbs,
    Trial,
    behaviour_tokens,
    best_trial,
    divergence,
    log_odds,
    separation_of,
    unit_difference,
)
from steersman.vectors.methods.quality.measures import HELD_OUT, LEAST_MEASURED
from steersman.vectors.methods.split import Sides, relabelled
from steersman.vectors.operation import Operation
from steersman.vectors.tensors import HookPoint

CANDIDATES: Final = 16
"""How many are tried where the request does not say: those that best tell the sides apart."""
SHUFFLES: Final = 8
CLEARLY: Final = 2.5
"""Standard deviations below the null."""


_Pair = tuple[str, int]
"""Names a sample of a side; see `Sample.pair`."""
_Held = dict[str, frozenset[_Pair]]
"""By side, the samples that nothing is made of."""
_Plain = dict[tuple[str, _Pair], LogProbs]
"""By side and sample, how the unsteered answer begins."""


class _Candidate(NamedTuple):
    position: int
    layer: int
    separation: float
    direction: Tensor
    """float32 [hidden], length 1."""
    known: Sides
    """The samples it was made of, [samples, 1, hidden] a side."""


async def by_trials(work: Work) -> SteeringVector:
    """The vector of `directional_ablation`. Raises `VectorInvalid`, `ActivationsInvalid`, and what
    runs raise."""
    job, request, examples, client, place, context = work
    seed = request.seed
    held = _held_out(examples, seed)
    wanted = int(request.settings.get("candidates", CANDIDATES))
    layers = [
        n
        for n, layer in enumerate(place.layers)
        if layer < LAYERS * (place.base_model.num_layers or 0)
    ]
    if not layers:
        raise VectorInvalid(
            "the candidates are of the first four fifths of the layers; name one of them",
            param="layers",
            code="layer_out_of_range",
        )
    positions = examples[0].stop - examples[0].start
    tried = {side: [e for e in _of(examples, side) if e.pair in held[side]] for side in SIDES}
    each_run = sum(map(len, tried.values()))
    most = min(wanted, positions * len(layers))
    job.total = 2 * len(examples) + (most + SHUFFLES) * each_run
    runs = Runs(client, context.steering())
    async with stored(work, positions) as store:
        plain = await _unsteered(work, runs)
        await job.enter(Phase.FITTING)

        def ranked(stop: Stop) -> list[_Candidate]:
            sides = Sides(*(store.activations(side) for side in SIDES))
            return _ranked(sides, held, examples, positions, layers, work, stop)[:most]

        candidates = await in_thread(job, ranked)
    behaviour = _behaviour(examples, held, plain)
    trial = _Trials(work, runs, tried, plain, behaviour)
    trials = []
    for one in candidates:
        bypass, kl = await trial.run(one.direction)
        trials.append(Trial(one.position, one.layer, one.separation, bypass, kl))
    best, sound = best_trial(trials)
    chosen = candidates[trials.index(best)]
    null = [
        await trial.run(direction)
        for direction in await in_thread(job, lambda _: _shuffled(chosen.known, seed))
    ]
    quality = _quality(work, held, trials, best, sound, null, trial.baseline(), behaviour)
    return trials_vector(request, _projecting(work, chosen.direction), quality, place)


class _Trials:
    """Runs the prompts held out with one direction after another taken out."""

    def __init__(
        self,
        work: Work,
        runs: Runs,
        tried: Mapping[str, Sequence[Example]],
        plain: _Plain,
        behaviour: Sequence[int],
    ) -> None:
        self._work = work
        self._runs = runs
        self._examples = [example for side in SIDES for example in tried[side]]
        self._plain = plain
        self._behaviour = behaviour

    def baseline(self) -> dict[str, float]:
        """Mean log-odds of the behaviour without any vector, by side."""
        return {
            side: fmean(
                log_odds(self._plain[one.label, one.pair], self._behaviour)
                for one in self._examples
                if one.label == side
            )
            for side in SIDES
        }

    async def run(self, direction: Tensor) -> tuple[float, float]:
        """Bypass and divergence with `direction` [hidden] projected out."""
        bypass, kl = dict[int, float](), dict[int, float]()
        vector = SteeringVector(
            tensors=_projecting(self._work, direction),
            operation=Operation("project"),
            positions="all",
        )
        async with self._runs.steered(vector) as runs:
            work = self._work._replace(examples=self._examples)
            await take_all(work, lambda n: self._one(runs, n, bypass, kl), AT_ONCE)
        # In their order, whichever ended first: sums of floats depend on it.
        return tuple(fmean(found[n] for n in sorted(found)) for found in (bypass, kl))  # type: ignore[return-value]

    async def _one(
        self, runs: SteeredRuns, n: int, bypass: dict[int, float], kl: dict[int, float]
    ) -> None:
        example = self._examples[n]
        if example.label == SIDES[0]:
            found = await runs.first_token(example.tokens, self._behaviour)
            bypass[n] = log_odds(found, self._behaviour)
        else:
            plain = self._plain[example.label, example.pair]
            found = await runs.first_token(example.tokens, list(plain))
            kl[n] = divergence(plain, found)


def _held_out(examples: Sequence[Example], seed: int) -> _Held:
    """The samples that candidates are tried on."""
    found: _Held = {}
    for side in SIDES:
        numbers = [example.pair for example in _of(examples, side)]
        if len(numbers) < LEAST_MEASURED:
            raise VectorInvalid(
                f"{side} has {len(numbers)} texts that can be read, and at least {LEAST_MEASURED} "
                "are needed, since candidates are tried on some that they are not made of",
                param=side,
                code="too_few_rows",
            )
        count = min(max(round(len(numbers) * HELD_OUT), 2), len(numbers) - 2)
        found[side] = frozenset(random.Random(seed).sample(numbers, count))
    return found


def _of(examples: Sequence[Example], side: str) -> list[Example]:
    return [example for example in examples if example.label == side]


async def _unsteered(work: Work, runs: Runs) -> _Plain:
    found: _Plain = {}

    async def one(n: int) -> None:
        example = work.examples[n]
        found[example.label, example.pair] = await runs.first_token(example.tokens)

    await take_all(work, one, AT_ONCE)
    return found


def _behaviour(
    examples: Sequence[Example],
    held: _Held,
    plain: _Plain,
) -> list[int]:
    known = [
        [plain[side, e.pair] for e in _of(examples, side) if e.pair not in held[side]]
        for side in SIDES
    ]
    found = behaviour_tokens(*known)
    if not found:
        raise VectorInvalid(
            "the model begins its answers to the positive texts as it begins those to the "
            "negative ones: there is no behaviour to take out; use mean_difference, and try its "
            "vector with the operation `project`",
            param="positive",
            code="no_behaviour",
        )
    return found


def _ranked(
    sides: Sides,
    held: _Held,
    examples: Sequence[Example],
    positions: int,
    layers: Sequence[int],
    work: Work,
    stop: Stop,
) -> list[_Candidate]:
    """All candidates, those first that best tell the samples held out apart."""
    out = [
        torch.tensor([example.pair in held[side] for example in _of(examples, side)])
        for side in SIDES
    ]
    found = []
    for position in range(positions):
        for layer in layers:
            stop()
            here = sides.at(position * len(work.place.layers) + layer)
            known = Sides(*(side[~mask] for side, mask in zip(here, out, strict=True)))
            unseen = [side[mask][:, 0] for side, mask in zip(here, out, strict=True)]
            try:
                direction = unit_difference(*known)[0]
            except ActivationsInvalid as error:
                if error.code != "identical_sides":
                    raise
                continue
            apart = separation_of(direction, *unseen)
            where = (position - positions, work.place.layers[layer])
            found.append(_Candidate(*where, apart, direction, known))
    if not found:
        raise ActivationsInvalid(
            "the two sides do not differ at any place: there is no direction between them",
            code="identical_sides",
        )
    return sorted(found, key=lambda one: -one.separation)


def _shuffled(known: Sides, seed: int) -> list[Tensor]:
    """Directions at one place, of shuffled labels."""
    return [unit_difference(*relabelled(known, seed + n, paired=False))[0] for n in range(SHUFFLES)]


def _projecting(work: Work, direction: Tensor) -> dict[HookPoint, Tensor]:
    count = work.place.base_model.num_layers or 0
    return {HookPoint(work.place.site, layer): direction for layer in range(count)}


def _quality(
    work: Work,
    held: _Held,
    trials: Sequence[Trial],
    best: Trial,
    sound: bool,
    null: Sequence[tuple[float, float]],
    baseline: Mapping[str, float],
    behaviour: Sequence[int],
) -> dict[str, Any]:
    counts = [len(_of(work.examples, side)) for side in SIDES]
    spread = {
        name: {"mean": fmean(values), "sd": stdev(values)}
        for name, values in zip(("bypass", "kl"), zip(*null, strict=True), strict=True)
    }
    tokenizer = work.context.tokenizer
    found: dict[str, Any] = {
        "rows": counts,
        "held_out": {
            side: sorted(e.number for e in _of(work.examples, side) if e.pair in held[side])
            for side in SIDES
        },
        "seed": work.request.seed,
        "behaviour": [{"id": token, "text": tokenizer.decode([token])} for token in behaviour],
        "baseline": dict(baseline),
        "trials": [trial._asdict() for trial in trials],
        "chosen": best._asdict(),
        "null": {"shuffles": SHUFFLES, **spread},
        "recommended": None,
    }
    least = spread["bypass"]
    if not sound:
        found["reason"] = (
            f"each of the {len(trials)} candidates changes other prompts' answers (a divergence "
            f"of {best.kl:.2f} at least): give more prompts that are alike in all but the "
            "behaviour, or try more `settings.candidates`"
        )
    elif not best.bypass < min(least["mean"] - CLEARLY * least["sd"], baseline[SIDES[0]]):
        found["reason"] = (
            f"without it the behaviour's log-odds are {best.bypass:.2f}, which is not clearly "
            f"below those without directions of shuffled labels ({least['mean']:.2f} ± "
            f"{least['sd']:.2f}): the behaviour does not hang on this direction"
        )
    else:
        found["recommended"] = best._asdict()
    return found
