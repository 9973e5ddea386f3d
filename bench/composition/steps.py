"""The comparison of `bench.engine.composition` with vectors as the paper makes them: one for each
step, at every layer's attention (`bench.composition.step_vectors`), on 96 prompts.

The paper's setting: greedy answers of up to 30 tokens, as many as there are steps; `start` and cap
2. No prompt had a part in making the vectors. All else is as in `bench.engine.composition`.

    python -m bench.composition.steps [--gemma FOLDER] [--trial]

On the demo model, or on Gemma-3-270M (`bench.composition.gemma`). Prints one JSON object last, and
writes it to bench/results/composition_steps.json, or composition_gemma.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from bench.composition import step_vectors
from bench.composition.gemma import convert
from bench.engine.composition import (
    CONSTANT,
    PROPERTIES,
    TOP_P,
    Asker,
    Point,
    compare,
    described,
    weights,
)
from bench.engine.distinct import start
from bench.report import publish, say
from bench.servers import demo_model
from steersman.steering.plan import PlannedVector
from steersman.vectors.library.library import Library
from tools.demo.measures import MEASURES

GRIDS = {
    CONSTANT: (0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
    "dynamic sum": (0.5, 1.0, 1.5, 2.0, 3.0),
    "dynamic mean": (2.0, 8.0, 32.0),
}
"""Coefficients, or what they start from and may be at most; 2 is the paper's."""
FRAMES = (
    "Describe {}.",
    "Tell me about {}.",
    "Write a few sentences about {}.",
    "What do people say about {}?",
)
SUBJECTS = (
    "a bakery", "a train station", "an old bicycle", "the town library", "a garden fence",
    "a fishing boat", "a school bus", "the corner shop", "a bridge over a river", "a wooden chair",
    "a mountain path", "the post van", "a swimming pool", "a paper map", "the night shift",
    "a chess club", "a rainy Tuesday", "the town hall", "an apple orchard", "a power cut",
    "a second-hand car", "the ferry", "a pottery class", "a long queue", "the hospital canteen",
    "a barber", "an empty street", "the local newspaper", "a choir", "a stone wall",
    "a watchmaker", "a picnic", "the harbour", "an office lift", "a farm gate", "a lighthouse",
    "a parking meter", "the university", "a photo album", "a cup of tea", "a brick house",
    "a delivery driver", "the old theatre", "an umbrella stand", "a flea market", "a windmill",
    "a ticket machine", "the evening news", "a sheepdog", "a village well", "a toolbox",
    "a tram line", "the winter holidays", "a spare key", "a carpenter", "a bus driver",
    "the allotment", "a pair of boots", "a roof repair", "a language course", "a cement works",
    "a courtyard", "the launderette", "a travel agent", "a spiral notebook", "a canal",
    "a fire drill", "the music room", "a supermarket", "a flat tyre", "a beekeeper",
    "a road sign", "the ice rink", "a broken clock", "a student flat", "a tailor",
    "a water tower", "the allotment shed", "a coach trip", "a hat shop", "a goods train",
    "a garden pond", "the bank", "a sewing machine", "a cable car", "an inn", "a steel factory",
    "the reception desk", "a rowing club", "a letter", "a hill farm", "a greenhouse",
    "the dentist", "a cattle market", "a new neighbour's dog", "a timetable",
)  # fmt: skip
PROMPTS = tuple(FRAMES[n % len(FRAMES)].format(subject) for n, subject in enumerate(SUBJECTS))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="steersman-bench-") as scratch:
        say("making the vectors")
        made = step_vectors.fill(Path(arguments.model), Library(Path(scratch)), PROPERTIES)
        vectors = [
            PlannedVector(
                one.digest,
                1.0,
                tuple(sorted(one.tensors)),
                "generation",
                steps=len(next(iter(one.tensors.values()))),
            )
            for one in made.values()
        ]
        say(f"steps: {[one.steps for one in vectors]}; starting vLLM with Steersman")
        rows = sum(one.steps * len(one.terms) for one in vectors)
        asker = Asker(start(arguments, scratch, bank_rows=rows), vectors, PROMPTS)
        tokens = min(one.steps for one in vectors)

        def point(way: str, coefficient: float) -> Point:
            found = asker.point(way, coefficient, 0.0, tokens)
            said = ", ".join(f"{of.mean():.2f}" for of in found.measures)
            say(f"{way} {coefficient:g}: {said}; surprise {found.surprise.mean():.2f}")
            return found

        unsteered = point(CONSTANT, 0.0)
        paths = {
            way: [unsteered, *(point(way, coefficient) for coefficient in grid)]
            for way, grid in GRIDS.items()
        }
    weight = weights(len(PROMPTS), arguments.draws, seed=0)
    return {
        "settings": {
            "model": Path(arguments.model).name,
            "vectors": {name: one.digest for name, one in made.items()},
            "site": vectors[0].terms[0].site,
            "measures": {name: MEASURES[name].label for name in PROPERTIES},
            "prompts": len(PROMPTS),
            "tokens": tokens,
            "top_p": TOP_P,
            "draws": arguments.draws,
        },
        "paths": {way: described(path, weight) for way, path in paths.items()},
        "compared_with_constant": {
            way: compare(paths[CONSTANT], path, weight)
            for way, path in paths.items()
            if way != CONSTANT
        },
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gemma", type=Path, help="its folder, made if need be, not the demo's")
    parser.add_argument("--draws", type=int, default=2000, help="of prompts, for intervals (2000)")
    parser.add_argument("--kv-cache", type=int, default=2**30, help="bytes (1 GiB)")
    parser.add_argument("--compiled", action="store_true", help="torch.compile on the CPU too")
    parser.add_argument("--trial", action="store_true", help="write no file")
    arguments = parser.parse_args()
    arguments.size = len(PROMPTS)
    return arguments


def main() -> None:
    arguments = parse_arguments()
    gemma = arguments.gemma
    arguments.model = str(convert(gemma)) if gemma else demo_model()
    name = "composition_gemma" if gemma else "composition_steps"
    publish(name, run(arguments), keep=not arguments.trial)


if __name__ == "__main__":
    main()
