"""A rolling restart under load: two servers on one library behind nginx, each restarted in turn.

Clients ask for chats and completions, streamed and whole, steered and not, and an editor uploads
vectors and changes them. Then the first server gets a SIGTERM, must end with exit code 0, is
started again, and is ready; then the second. Every answer must be whole, have its receipt, and be
word for word what it was before; a failure is a connection error, a status that is not 2xx, a
stream that is cut, another text, a vector that a server lacks in the end. nginx asks the other
server when one refuses or is away; how often it did stands in the result.

    python -m bench.load.rolling [--clients 4] [--seconds 15]

Prints one JSON object last and writes it to bench/results/rolling.json; any failure: exit status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx

from bench.load.clients import Client, Editor, Tally, Wrong, golden_answers
from bench.load.nginx import Nginx, nginx
from bench.load.replica import Replica
from bench.load.scratch import EDIT, scratch_folder, write_keys
from bench.load.sums import spread
from bench.report import publish, say
from bench.servers import demo_model, steersman
from steersman.vectors.demo.make import fill_library

SHUTDOWN_TIMEOUT = 60
OPTIONS = (
    "--served-model-name smollm2 --max-model-len 512 --max-num-seqs 16 "
    f"--kv-cache-memory-bytes 268435456 --shutdown-timeout {SHUTDOWN_TIMEOUT}"
)


async def restart(replica: Replica) -> dict[str, Any]:
    """Stop it as Kubernetes does, start it again, wait until it is ready."""
    async with httpx.AsyncClient(base_url=replica.url, timeout=10, trust_env=False) as http:
        metrics = (await http.get("/metrics")).text
    under_way = sum(
        float(line.rsplit(" ", 1)[1])
        for line in metrics.splitlines()
        if line.startswith(("vllm:num_requests_running{", "vllm:num_requests_waiting{"))
    )
    say(f"SIGTERM to {replica.name} with {under_way:.0f} requests under way")
    code, seconds = await asyncio.to_thread(replica.terminate, SHUTDOWN_TIMEOUT)
    say(f"{replica.name} ended with {code} after {seconds:.1f} s")
    replica.start()
    ready = await asyncio.to_thread(replica.wait_ready)
    say(f"{replica.name} is ready again after {ready:.1f} s")
    return {
        "replica": replica.name,
        "requests_under_way": int(under_way),
        "exit_code": code,
        "seconds_to_exit": round(seconds, 1),
        "seconds_to_ready": round(ready, 1),
    }


async def roll(
    replicas: list[Replica], front: Nginx, key: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Everything but starting and stopping what is needed."""
    headers = {"Authorization": f"Bearer {key}"}
    options: dict[str, Any] = {"headers": headers, "timeout": 300, "trust_env": False}
    async with AsyncExitStack() as stack:
        http, *direct = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=url, **options))
            for url in (front.url, *(replica.url for replica in replicas))
        ]
        say("taking golden answers")
        golden = await golden_answers(direct)
        tally = Tally()
        editor = Editor(http, tally, arguments.seconds / 5)
        draw = random.Random(arguments.seed)
        clients = [
            Client(http, golden, tally, random.Random(draw.random()))
            for _ in range(arguments.clients)
        ]
        stop = asyncio.Event()
        work = [asyncio.create_task(client.run(stop)) for client in clients]
        work.append(asyncio.create_task(editor.run(stop)))
        restarts: list[dict[str, Any]] = []
        try:
            await asyncio.sleep(arguments.seconds)
            for replica in replicas:
                restarts.append(await restart(replica))
                await asyncio.sleep(arguments.seconds)
                say(f"{sum(tally.done.values())} done, {len(tally.failures)} failed")
        finally:
            stop.set()
            await asyncio.gather(*work)
        vectors = {}
        for replica, client in zip(replicas, direct, strict=True):
            try:
                vectors[replica.name] = await editor.check(client)
            except Wrong as error:
                tally.failures.append(str(error))
    tried = front.requests()
    again = [line for line in tried if "," in line["statuses"]]
    failures = tally.failures + [
        f"{one['replica']} ended with {one['exit_code']}" for one in restarts if one["exit_code"]
    ]
    return {
        "requests": dict(tally.done),
        "failures": failures[:50],
        "failure_count": len(failures),
        "answer_seconds": spread(tally.seconds),
        "questions": len(golden),
        "restarts": restarts,
        "vectors_seen_at_the_end": vectors,
        "nginx": {
            "requests": len(tried),
            "statuses": dict(Counter(str(line["status"]) for line in tried)),
            "asked_again": len(again),
            "asked_again_after": dict(Counter(line["statuses"].split(",")[0] for line in again)),
            "errors": _errors(front),
        },
    }


def _errors(front: Nginx) -> dict[str, int]:
    """nginx's own words for what went wrong with a server, counted."""
    words: Counter[str] = Counter()
    for line in front.errors():
        # 2026/11/22 20:15:09 [error] 12#12: *7 connect() failed (111: ...) while ..., client: ...
        text = line.partition("*")[2].partition(" ")[2] or line
        words[text.partition(", client:")[0]] += 1
    return dict(words)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15, help="of load around each restart")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, help="directory for logs")
    parser.add_argument("--no-keep", dest="keep", action="store_false", help="only print")
    arguments = parser.parse_args()
    load = [round(average, 2) for average in os.getloadavg()]
    with scratch_folder(arguments.scratch, "rolling-") as (stack, scratch):
        key = write_keys(scratch / "keys.yaml", {"rolling": {"scopes": list(EDIT)}})["rolling"]
        model = demo_model()
        fill_library(Path(model), scratch / "library", say)
        options = [*OPTIONS.split(), "--library", str(scratch / "library")]
        options += ["--api-keys-file", str(scratch / "keys.yaml")]
        cores = sorted(os.sched_getaffinity(0))
        replicas = []
        for n, name in enumerate(("A", "B")):
            environment = {
                "STEERSMAN_HOME": str(scratch / "home"),
                "OMP_NUM_THREADS": "1",
                "VLLM_CPU_OMP_THREADS_BIND": str(cores[n % len(cores)]),
            }
            command = steersman(model, options)
            replicas.append(Replica(name, command, environment, scratch / f"{name}.log"))
            stack.callback(replicas[-1].kill)
            replicas[-1].start()
        for replica in replicas:
            say(f"{replica.name} is ready after {replica.wait_ready():.0f} s")
        addresses = [replica.url.removeprefix("http://") for replica in replicas]
        front = stack.enter_context(nginx(addresses, scratch / "nginx"))
        found = asyncio.run(roll(replicas, front, key, arguments))
    settings = {
        "server_options": OPTIONS,
        "clients": arguments.clients,
        "seconds_around_restarts": arguments.seconds,
        "load_average_before": load,
    }
    publish("rolling", {"settings": settings, **found}, keep=arguments.keep)
    return 1 if found["failure_count"] else 0


if __name__ == "__main__":
    sys.exit(main())
