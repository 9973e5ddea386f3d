"""What interventions do on the demo model: a direction taken out, transport beside the shift of the
means, and a condition.

    python -m bench.serving.interventions

- A direction: `cheerful` against gloomy, the mean difference at every layer, projected out of the
  stream at all of them. Answers to 24 requests for something happy and 24 for something sad have a
  spread of sentiment (VADER's compound score); how much of it is left?
- Transport: `act_linear` and `act_mean` from gloomy to cheerful at two layers, beside the mean
  difference added there, over 48 neutral requests: the perplexity of the answers under the
  unsteered model at equal sentiment.
- A condition (CAST): a direction of questions about space, its layer and threshold chosen on 40
  questions; then 30 about space and 30 others, none of them seen before. The others must be
  answered word for word as unsteered.

Greedy answers. Needs the extras `demo` and `measure`. Prints one JSON object last, and writes it to
bench/results/interventions.json.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from bench.report import publish, say
from bench.servers import demo_model, running, steersman
from bench.steering_api import ask, extract
from steersman.vectors.demo.contrast import contrasts
from steersman.vectors.demo.make import fill_library
from tools.demo.measures import MEASURES

TOKENS: Final = 40
SUBJECTS: Final = (
    "a wedding", "a garden", "a journey by train", "an old dog", "a birthday", "a school",
    "a house by the sea", "a letter from home", "a football match", "a winter evening",
    "a new job", "a kitchen", "a long walk", "a neighbour", "a summer holiday", "a concert",
    "a hospital", "a market", "a bicycle", "a library", "a family dinner", "a small town",
    "a teacher", "a river",
)  # fmt: skip
FRAMES: Final = ("Describe {}.", "Tell me about {}.")
SPACE: Final = (
    "the planet Mars", "black holes", "the Milky Way", "the rings of Saturn", "comets",
    "the first moon landing", "the sun", "neutron stars", "the Hubble telescope",
    "Jupiter's moons", "meteorites", "astronauts", "galaxies", "the International Space Station",
    "supernovas", "Venus", "rockets", "the Big Bang", "asteroids", "Neptune", "space suits",
    "constellations", "a solar eclipse", "the speed of light", "Pluto", "satellites",
    "the Apollo missions", "red giants", "exoplanets", "the Andromeda galaxy", "Mercury",
    "cosmic rays", "a lunar eclipse", "the Voyager probes", "gravity on the moon",
    "space stations", "Uranus", "dark matter", "the surface of Titan", "the north star",
    "nebulas", "launch pads", "weightlessness", "the solar wind", "shooting stars", "telescopes",
    "the far side of the moon", "white dwarfs", "mission control", "orbits",
)  # fmt: skip
OTHERS: Final = (
    "baking bread", "the history of Rome", "gardening", "learning the piano", "football", "cats",
    "a good breakfast", "wooden furniture", "the French language", "public libraries", "swimming",
    "knitting", "coffee", "the stock market", "bicycles", "cheese", "board games",
    "the London underground", "painting a wall", "wheat farming", "tailors", "jazz", "bridges",
    "dentists", "the alphabet", "rice", "summer camps", "the post office", "fishing", "chess",
    "winter coats", "grammar", "olive oil", "dogs", "mountain huts", "pottery",
    "markets in Paris", "school uniforms", "carpets", "apple trees", "the violin", "soap",
    "trains in Japan", "hairdressers", "fairy tales", "tea", "elections", "glass windows",
    "the price of houses", "running a marathon",
)  # fmt: skip
TRAINED: Final = 20
"""Questions of each kind that choose the condition's layer and threshold."""
CONDITION_LAYERS: Final = (2, 6, 10, 14)
"""Not behind those that `ACTION` steers at, 14 and 16."""
ACTION: Final = {"id": "shouting", "coefficient": 2.0}
PLACES: Final = (14, 16)
"""Layers of `cheerful` among the demo's vectors."""
STRENGTHS: Final = {
    "mean difference": (0.25, 0.5, 1.0, 1.5, 2.0),
    "act_linear": (0.25, 0.5, 1.0, 1.5, 2.0),
    "act_mean": (0.25, 0.5, 1.0, 1.5, 2.0),
}


class Said(NamedTuple):
    text: str
    surprise: float
    """Mean negative log-probability of a token under the unsteered model."""
    receipt: Any


class Asker:
    """Asks the demo server, greedily."""

    def __init__(self, http: httpx.Client, model: str) -> None:
        self._http, self._model = http, model

    def answer(self, text: str, steering: Any = None) -> Said:
        body = {
            "model": self._model, "messages": [{"role": "user", "content": text}],
            "temperature": 0, "max_tokens": TOKENS, "return_token_ids": True,
        }  # fmt: skip
        sent = body if steering is None else body | {"steering": steering}
        found = ask(self._http, "POST", "/v1/chat/completions", json=sent)
        (choice,) = found["choices"]
        prompt, tokens = found["prompt_token_ids"], choice["token_ids"]
        scored = ask(self._http, "POST", "/v1/completions", json={
            "model": self._model, "prompt": [*prompt, *tokens], "max_tokens": 1, "temperature": 0,
            "prompt_logprobs": 0,
        })["choices"][0]["prompt_logprobs"][len(prompt) :]  # fmt: skip
        each = [at[str(token)]["logprob"] for at, token in zip(scored, tokens, strict=True)]
        return Said(choice["message"]["content"], -statistics.mean(each), found.get("steering"))

    def all(self, texts: Sequence[str], steering: Any = None) -> list[Said]:
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(lambda text: self.answer(text, steering), texts))

    def vector(self, name: str, method: str, **more: Any) -> None:
        extract(self._http, {"method": method, "name": name, **more})


def sentiment(said: Sequence[Said]) -> list[float]:
    return [MEASURES["cheerful"].of(one.text) for one in said]


def perplexity(said: Sequence[Said]) -> float:
    return math.exp(statistics.mean(one.surprise for one in said))


def direction_out(asker: Asker) -> dict[str, Any]:
    """A direction projected out at every layer."""
    happy = [f"Write something happy about {subject}." for subject in SUBJECTS]
    sad = [f"Write something sad about {subject}." for subject in SUBJECTS]
    project = {"id": "direction", "operation": "project", "coefficient": 1.0, "positions": "all"}
    found = {}
    for name, steering in {"unsteered": None, "projected out": {"vectors": [project]}}.items():
        both = asker.all([*happy, *sad], steering)
        scores = sentiment(both)
        up, down = scores[: len(happy)], scores[len(happy) :]
        found[name] = {
            "happy": round(statistics.mean(up), 3),
            "sad": round(statistics.mean(down), 3),
            "spread": round(statistics.stdev(scores), 3),
            "perplexity": round(perplexity(both), 2),
        }
        say(f"{name}: {found[name]}")
    return found


def transport(asker: Asker) -> dict[str, Any]:
    """Maps and the shift of the means, each at several strengths."""
    neutral = [frame.format(subject) for frame in FRAMES for subject in SUBJECTS]
    found: dict[str, Any] = {}
    for way, strengths in STRENGTHS.items():
        found[way] = []
        for strength in (0.0, *strengths):
            use = {"id": way.replace(" ", "-"), "coefficient": strength, "positions": "all",
                   "layers": list(PLACES)}  # fmt: skip
            said = asker.all(neutral, {"vectors": [use]} if strength else None)
            point = {
                "coefficient": strength,
                "sentiment": round(statistics.mean(sentiment(said)), 3),
                "perplexity": round(perplexity(said), 2),
            }
            found[way].append(point)
            say(f"{way} {point}")
    return found


def threshold(inside: Sequence[float], outside: Sequence[float]) -> tuple[float, float]:
    """The threshold over which the condition passes, and its F1: best between two measures."""
    every = sorted([*inside, *outside])
    best = (0.0, -1.0)
    for low, high in itertools.pairwise(every):
        at = (low + high) / 2
        hits, false = sum(x > at for x in inside), sum(x > at for x in outside)
        f1 = 2 * hits / (hits + false + len(inside))
        best = max(best, (at, f1), key=lambda one: one[1])
    return best


def condition(asker: Asker) -> dict[str, Any]:
    """A use that steers where the prompt is about space."""
    space = [f"Tell me about {subject}." for subject in SPACE]
    others = [f"Tell me about {subject}." for subject in OTHERS]

    def gated(layer: int, above: float) -> dict[str, Any]:
        gate = {"id": "about-space", "layer": layer, "measure": "cosine", "above": above,
                "over": "prompt_mean"}  # fmt: skip
        return {"vectors": [{**ACTION, "gate": gate}]}

    def measured(layer: int, texts: Sequence[str]) -> list[float]:
        said = asker.all(texts, gated(layer, 2.0))
        return [one.receipt["vectors"][0]["gate"]["value"] for one in said]

    tried = {
        layer: threshold(measured(layer, space[:TRAINED]), measured(layer, others[:TRAINED]))
        for layer in CONDITION_LAYERS
    }
    layer = max(tried, key=lambda one: tried[one][1])
    above, f1 = tried[layer]
    say(f"condition: layer {layer} over {above:.4f}, F1 {f1:.2f} of those that chose it")
    counts = {"passed": 0, "changed": 0, "asked": 0}, {"passed": 0, "changed": 0, "asked": 0}
    for texts, count in zip((space[TRAINED:], others[TRAINED:]), counts, strict=True):
        for text in texts:  # One by one: word for word the same is a matter of batches, too.
            plain, steered = asker.answer(text), asker.answer(text, gated(layer, above))
            passed = steered.receipt["vectors"][0]["gate"]["passed"]
            if not passed and steered.text != plain.text:
                raise SystemExit(f"{text!r}: the gate did not pass, and the answer changed")
            count["passed"] += passed
            count["changed"] += steered.text != plain.text
            count["asked"] += 1
    return {
        "layer": layer,
        "above": above,
        "f1_of_training": {str(one): round(score, 3) for one, (_, score) in tried.items()},
        "about_space": counts[0],
        "others": counts[1],
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    texts = contrasts()["cheerful"]
    sides = {"positive": list(texts.positive), "negative": list(texts.negative), "tokens": "mean"}
    with tempfile.TemporaryDirectory(prefix="steersman-bench-") as name:
        folder = Path(name)
        fill_library(Path(arguments.model), folder / "library", say)
        options = ["--library", str(folder / "library"), "--served-model-name", "smollm2"]
        command = steersman(arguments.model, [*options, "--max-model-len", "1024"])
        with (
            running("demo", command, {"STEERSMAN_HOME": name}, folder / "log") as server,
            httpx.Client(base_url=server.url, timeout=600, trust_env=False) as http,
        ):
            asker = Asker(http, "smollm2")
            say("making vectors")
            asker.vector("direction", "mean_difference", prompt="Write a sentence.", **sides)
            there = {"layers": list(PLACES), "prompt": "Write a sentence."}
            asker.vector("mean-difference", "mean_difference", **there, **sides)
            for method in ("act_linear", "act_mean"):
                asker.vector(method, method, **there, **sides)
            asker.vector(
                "about-space", "mean_difference", tokens="mean",
                positive=[f"Tell me about {one}." for one in SPACE[:TRAINED]],
                negative=[f"Tell me about {one}." for one in OTHERS[:TRAINED]],
            )  # fmt: skip
            return {
                "settings": {"model": Path(arguments.model).name, "tokens": TOKENS},
                "projected_out": direction_out(asker),
                "transport": transport(asker),
                "condition": condition(asker),
            }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="the demo model's folder (none: made if need be)")
    parser.add_argument("--trial", action="store_true", help="write no file")
    arguments = parser.parse_args()
    arguments.model = arguments.model or demo_model()
    publish("interventions", run(arguments), keep=not arguments.trial)


if __name__ == "__main__":
    main()
