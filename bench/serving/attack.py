"""Attack and victims in turns: nobody's answer suffers from another's numbers.

Attackers send what may make a steered stream overflow (`attack_kinds` has twenty kinds).
Victims ask unsteered questions, some with the same beginnings, through the same cache, which is
small, so that they get the blocks that attackers had.A victim is ill if its
status is not 200, its text is empty, one of its log-probabilities is not a number, or they are not
those that it had before the first attack. An attacker may be refused (4xx) or answered (200); a 5xx
is a fault.

    python -m bench.serving.attack [--attacks 500] [--victims 2000] [--way eager|compiled|v2]
                           [--dtype float32]

Prints one JSON object last and writes it to bench/results/attack.json, by way and dtype. Exit
status 1 if anybody is ill or anything answers 5xx.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from bench.report import say
from bench.servers import demo_model, running, steersman
from bench.serving.attack_kinds import KINDS, WORDS, Attack, attack, files
from tests.support.standin import v2_environment

OPTIONS = (
    "--served-model-name", "smollm2", "--max-model-len", "512", "--block-size", "32",
    "--max-num-seqs", "16", "--kv-cache-memory-bytes", "33554432", "--max-coefficient", "1000000",
)  # fmt: skip
"""A cache of some thousand tokens: blocks change hands all the time."""
AT_ONCE = 12
RESULTS = Path(__file__).parents[1] / "results" / "attack.json"
TOLERANCE = 1e-3
"""Of log-probabilities, at least: how a batch is made up moves them by rounding. How far it does,
more in float16, is measured among victims alone, before the first attack; twice that is allowed."""
CALM = 200
"""Questions of that measurement."""
QUESTIONS = 40


def question(n: int) -> dict[str, Any]:
    draw = random.Random(n)
    start = ("Tell me about the sea.", "List three colours.", "")[n % 3]
    text = " ".join([start, *draw.choices(WORDS, k=(1, 5, 20, 60)[n % 4])])
    return {
        "model": "smollm2", "prompt": text, "temperature": 0, "max_tokens": 4, "logprobs": 1,
        "ignore_eos": True,
    }  # fmt: skip


async def ask(http: httpx.AsyncClient, n: int) -> tuple[int, str, list[float | None]]:
    answer = await http.post("/v1/completions", json=question(n))
    if answer.status_code != 200:
        return answer.status_code, answer.text[:200], []
    (choice,) = answer.json()["choices"]
    return 200, choice["text"], choice["logprobs"]["token_logprobs"]


def moved(answer: Any, before: Any) -> float:
    """The furthest that a log-probability of an answer of the same text lies from before."""
    moves: list[float] = [abs(a - b) for a, b in zip(answer[2], before[2], strict=True)]
    return max(moves)


def illness(
    answer: tuple[int, str, list[float | None]], before: Any, tolerance: float
) -> str | None:
    """What is wrong with a victim's answer, None if nothing is."""
    status, text, logprobs = answer
    if status != 200:
        return f"{status}: {text}"
    if not text or not all(x is not None and math.isfinite(x) for x in logprobs):
        return f"text {text!r}, log-probabilities {logprobs}"
    if text == before[1]:
        worst = moved(answer, before)
        return None if worst < tolerance else f"log-probabilities moved by {worst}"
    return f"text {text!r}, was {before[1]!r}"


async def strike(http: httpx.AsyncClient, one: Attack) -> int:
    """The attacker's status; 499 where it left. A stream that carries an error counts as that."""
    if not one.body.get("stream"):
        return (await http.post(one.path, json=one.body)).status_code
    async with http.stream("POST", one.path, json=one.body) as answer:
        if answer.status_code != 200:
            return answer.status_code
        seen = 0
        async for line in answer.aiter_lines():
            seen += line.startswith("data: ")
            if line.startswith('data: {"error"'):
                return 400 if json.loads(line[6:])["error"]["code"] == "not_finite" else 500
            if seen == one.leaves_after:
                return 499
    return 200


async def run(url: str, attacks: int, victims: int, seed: int) -> dict[str, Any]:
    """Everything but starting and stopping the server."""
    draw = random.Random(seed)
    statuses: dict[int, Counter[int]] = {kind: Counter() for kind in range(len(KINDS))}
    ill: list[str] = []
    asked = 0
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as http:
        for name, data in files().items():
            upload = await http.post(
                "/v1/steering/vectors", files={"file": ("v", data)}, data={"name": name}
            )
            upload.raise_for_status()
        say("taking the victims' answers before the first attack")
        before = [await ask(http, n) for n in range(QUESTIONS)]
        gate = asyncio.Semaphore(AT_ONCE)

        async def calmly(n: int) -> tuple[int, Any]:
            async with gate:
                return n, await ask(http, n)

        calm = await asyncio.gather(*(calmly(draw.randrange(QUESTIONS)) for _ in range(CALM)))
        # Of two texts that are as likely within rounding, either may come.
        steady = sorted({*range(QUESTIONS)} - {n for n, one in calm if one[1] != before[n][1]})
        noise = max(moved(one, before[n]) for n, one in calm if n in steady)
        tolerance = max(TOLERANCE, 2 * noise)
        say(f"among victims alone: {noise:.2g}; {QUESTIONS - len(steady)} questions are left out")

        async def one_attack(kind: int) -> None:
            async with gate:
                statuses[kind][await strike(http, attack(kind, draw))] += 1

        async def one_victim(n: int) -> None:
            async with gate:
                trouble = illness(await ask(http, n), before[n], tolerance)
            if trouble is not None:
                ill.append(f"question {n}: {trouble}")

        rounds = -(-attacks // len(KINDS))
        for turn in range(rounds):
            kinds = [k for k in range(len(KINDS)) if turn * len(KINDS) + k < attacks]
            share = victims * (turn + 1) // rounds - asked
            asked += share
            crowd = [one_attack(k) for k in kinds]
            crowd += [one_victim(draw.choice(steady)) for _ in range(share)]
            draw.shuffle(crowd)
            await asyncio.gather(*crowd)
            if turn % 5 == 4 or turn + 1 == rounds:
                made = min((turn + 1) * len(KINDS), attacks)
                say(f"{made} attacks, {asked} victims: {len(ill)} ill")
        metrics = (await http.get("/metrics")).text
    not_finite = [x for x in metrics.splitlines() if x.startswith("steering_not_finite_total")]
    faults = sum(n for one in statuses.values() for status, n in one.items() if status >= 500)
    return {
        "attacks": attacks,
        "victims": asked,
        "ill": len(ill),
        "noise": noise,
        "left_out": QUESTIONS - len(steady),
        "5xx": faults,
        "not_finite": not_finite[0].rsplit(" ", 1)[1] if not_finite else None,
        "statuses": {str(kind): dict(sorted(one.items())) for kind, one in statuses.items()},
        "first_ill": ill[:5],
    }


def way(name: str) -> tuple[list[str], Mapping[str, str]]:
    """Options and environment of a way of running."""
    if name == "v2":
        return [], v2_environment()
    return (["--no-enforce-eager"] if name == "compiled" else []), {}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attacks", type=int, default=500)
    parser.add_argument("--victims", type=int, default=2000)
    parser.add_argument("--way", choices=("eager", "compiled", "v2"), default="eager")
    parser.add_argument("--dtype", default="float32", help="the model's, as vLLM's --dtype")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        options, environment = way(asked.way)
        command = steersman(
            demo_model(),
            [*OPTIONS, *options, "--dtype", asked.dtype, "--library", str(scratch / "library")],
        )
        environment = {"STEERSMAN_HOME": str(scratch), **environment}
        with running("steersman", command, environment, scratch / "log") as server:
            found = asyncio.run(run(server.url, asked.attacks, asked.victims, asked.seed))
    print(json.dumps(found))
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[f"{asked.way}, {asked.dtype}"] = found
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    return 1 if found["ill"] or found["5xx"] else 0


if __name__ == "__main__":
    sys.exit(main())
