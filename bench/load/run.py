"""A load test by locust: chats that arrive at a constant rate, through keys, most of them steered.

The load is open: requests arrive whether those before have been answered or not. A burst tells
about how many the server can answer in a second; a ramp around that finds the highest rate at which
the first token keeps nobody waiting (95% within --patience seconds): what the server holds, 1x from
here on. Then 1x, 2x and 1x again, in two cases: with keys that may each have only so many requests
under way, so that the server refuses (429) what is too much, and with keys without limits, where
all wait in vLLM's queue until half the rate has let it empty.

    python -m bench.load.run [--rounds 1] [--seconds 30]

The load generator runs on the server's own cores. Prints one JSON object last, writes it to
bench/results/load.json, and draws docs/figures/load.png.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
from pathlib import Path
from typing import Any

from bench.load.asks import MODEL, STEERED, TOKENS, WARM_UP, Phase, arrivals, burst
from bench.load.figure import Case, draw
from bench.load.scratch import INFER, scratch_folder, write_keys
from bench.load.sums import all_sums, first_token, good, percentile
from bench.load.tool import Recorded, locust, send
from bench.load.watch import Watch
from bench.report import publish, say
from bench.servers import Server, demo_model, running, steersman
from steersman.vectors.demo.make import fill_library

FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "load.png"
SEQUENCES = 16
OPTIONS = (
    f"--served-model-name {MODEL} --max-model-len 1024 --max-num-seqs {SEQUENCES} "
    "--kv-cache-memory-bytes 1073741824 --disable-uvicorn-access-log"
)
KEYS = 4
STEPS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
"""Of the burst's rate."""


class Bench:
    """A running server, its clients' keys, and the runs so far."""

    def __init__(self, server: Server, keys: dict[str, str], scratch: Path, seed: int) -> None:
        self.watch = Watch(server)
        self.server = server
        self.keys = keys
        self.scratch = scratch
        self.draw = random.Random(seed)
        self.requests = self.failures = 0

    def named(self, kind: str) -> list[str]:
        """The keys of one kind."""
        return [name for name in self.keys if name.startswith(kind)]

    def send(self, planned: Any) -> Recorded:
        """Send, and wait until the server is quiet again."""
        heard = send(self.server.url, planned, self.keys, self.scratch, self.watch)
        wrong = sum(not good(record) for record in heard.records)
        if (heard.requests, heard.failures) != (len(heard.records), wrong):
            raise RuntimeError(
                f"locust counts {heard.requests} requests and {heard.failures} failures, "
                f"its records {len(heard.records)} and {wrong}"
            )
        self.requests += heard.requests
        self.failures += heard.failures
        self.watch.settle()
        return heard

    def burst_rate(self, count: int) -> float:
        """Requests answered in a second when `count` come at once."""
        heard = self.send(burst(count, self.named("free"), self.draw))
        if trouble := [record for record in heard.records if not good(record)]:
            raise RuntimeError(f"the burst met {trouble[0]}")
        # The last few run alone, which says nothing of a full server.
        ends = sorted(record["ended"] for record in heard.records)[: count * 3 // 4]
        return len(ends) / float(ends[-1])

    def ramp(self, ceiling: float, seconds: float, patience: float) -> dict[str, Any]:
        """Steps up, without a pause between: what queues in one is there in the next."""
        phases = [Phase(f"{share:.0%}", share * ceiling, seconds) for share in STEPS]
        heard = self.send(arrivals(phases, self.named("free"), self.draw))
        steps = all_sums(phases, heard.records)
        held = 0.0
        for phase in phases:
            mine = [r for r in heard.records if r["phase"] == phase.name]
            waits = [first_token(record) for record in mine if good(record)]
            if len(waits) < len(mine) or percentile(waits, 95) > patience:
                break
            held = phase.rate
        if not held:
            raise RuntimeError(f"the server did not hold even the first step: {steps}")
        return {"steps": steps, "holds_per_s": round(held, 3)}

    def run(self, kind: str, title: str, phases: list[Phase]) -> tuple[Case, dict[str, Any]]:
        """One case, with keys of one kind."""
        self.watch.samples.clear()
        heard = self.send(arrivals(phases, self.named(kind), self.draw))
        samples = [s._replace(at=s.at - heard.began) for s in self.watch.samples]
        case = Case(title, phases, heard.records, [s for s in samples if s.at >= 0])
        most = max((sample.waiting for sample in case.samples), default=0)
        return case, {"phases": all_sums(phases, heard.records), "most_waiting": most}


def measure(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything but starting and stopping the server."""
    say("a burst")
    bench.burst_rate(SEQUENCES)
    ceiling = bench.burst_rate(4 * SEQUENCES)
    say(f"{ceiling:.2f} answers a second when all come at once; ramping")
    ramp = bench.ramp(ceiling, arguments.seconds / 2, arguments.patience)
    rate, seconds = ramp["holds_per_s"], arguments.seconds
    say(f"the server holds {rate:.2f} requests a second")
    # Running at its rate already when the comparison begins, as it will be when it ends.
    warm_up = Phase(WARM_UP, rate, seconds / 4)
    limited = [
        warm_up,
        Phase("1x, before", rate, seconds),
        Phase("2x", 2 * rate, seconds),
        Phase("1x, after", rate, seconds),
    ]
    free = [
        warm_up,
        Phase("1x, before", rate, seconds),
        Phase("2x", 2 * rate, 0.75 * seconds),
        Phase("0.5x", 0.5 * rate, 3 * seconds),
        Phase("1x, after", rate, seconds),
    ]
    runs: dict[str, list[dict[str, Any]]] = {"limited": [], "free": []}
    cases: dict[str, Case] = {}
    for n in range(arguments.rounds):
        for kind, title, phases in (
            ("limited", f"keys with {arguments.concurrent} requests at once each", limited),
            ("free", "keys without limits", free),
        ):
            say(f"round {n + 1} of {arguments.rounds}: {title}")
            cases[kind], found = bench.run(kind, title, phases)
            runs[kind].append(found)
            for name, told in found["phases"].items():
                say(f"{name}: {told['outcomes']}, {told['first_token_s']}, {told['token_ms']} ms")
    draw(FIGURE if arguments.keep else bench.scratch / "load.png", cases)
    return {
        "burst_per_s": round(ceiling, 3),
        "ramp": ramp,
        "limited": runs["limited"],
        "free": runs["free"],
        "counted_by_locust": {"requests": bench.requests, "failures": bench.failures},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1, help="of 1x, 2x, 1x in both cases")
    parser.add_argument("--seconds", type=float, default=30, help="of a phase; a ramp step: half")
    parser.add_argument("--patience", type=float, default=1, help="s to first token, for 95%%")
    parser.add_argument("--concurrent", type=int, default=5, help="requests at once of a key")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--options", default="", help="more options for the server")
    parser.add_argument("--scratch", type=Path, help="directory for logs and records")
    parser.add_argument("--no-keep", dest="keep", action="store_false", help="only print")
    arguments = parser.parse_args()
    locust()
    limits = {"free": {}, "limited": {"max_concurrent_requests": arguments.concurrent}}
    load = [round(average, 2) for average in os.getloadavg()]
    with scratch_folder(arguments.scratch, "load-") as (stack, scratch):
        entries = {
            f"{kind}-{n}": {"scopes": list(INFER), **fields}
            for kind, fields in limits.items()
            for n in range(KEYS)
        }
        keys = write_keys(scratch / "keys.yaml", entries)
        model = demo_model()
        fill_library(Path(model), scratch / "library", say)
        options = [*shlex.split(f"{OPTIONS} {arguments.options}")]
        options += ["--library", str(scratch / "library")]
        options += ["--api-keys-file", str(scratch / "keys.yaml")]
        environment = {"STEERSMAN_HOME": str(scratch / "home")}
        say("starting the server")
        server = stack.enter_context(
            running("load", steersman(model, options), environment, scratch / "server.log")
        )
        found = measure(Bench(server, keys, scratch, arguments.seed), arguments)
    settings = {
        "server_options": f"{OPTIONS} {arguments.options}".strip(),
        "keys": {kind: {"keys": KEYS, **fields} for kind, fields in limits.items()},
        "tool": "locust 2.47.0, open load, equal distances; on the server's own cores",
        "requests": f"streamed chats of {', '.join(map(str, TOKENS))} tokens; {STEERED:.0%} "
        "steered, by 1 to 3 demo vectors at coefficients from -1.5 to 1.5",
        "patience_s": arguments.patience,
        "seed": arguments.seed,
        "load_average_before": load,
    }
    publish("load", {"settings": settings, **found}, keep=arguments.keep)


if __name__ == "__main__":
    main()
