"""A locustfile: sends each request of a plan at its time, and writes down what came back and when.

Runs in locust's own environment (bench/load/tool.py starts it), so it imports nothing of ours.

The load is open: a request is sent at its time however many are still under way, as long as one of
the users is free. Each user takes the next arrival from the plan, waits for its time, sends it, and
reads its stream to the end; how late it was sent is in its record.
"""

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import gevent
from gevent.event import Event
from locust import FastHttpUser, events, task
from locust.exception import StopUser

PATH = "/v1/chat/completions"
Record = dict[str, Any]


class Plan:
    """Arrivals in order, each taken once, and the records of those that have been answered."""

    def __init__(self) -> None:
        with open(os.environ["LOAD_PLAN"]) as lines:
            self.arrivals = [json.loads(line) for line in lines]
        self.keys: dict[str, str] = json.loads(os.environ["LOAD_KEYS"])
        self.taken = 0
        self.answered = 0
        self.begun = Event()
        self.start = 0.0
        self.out = open(os.environ["LOAD_RECORDS"], "w")  # noqa: SIM115 (open to the end)

    def begin(self) -> None:
        """From now on time counts."""
        self.start = time.perf_counter() + 0.5
        self.write({"began": time.time() + 0.5})
        self.begun.set()

    def take(self) -> Record | None:
        if self.taken == len(self.arrivals):
            return None
        self.taken += 1
        arrival: Record = self.arrivals[self.taken - 1]
        return arrival

    def clock(self) -> float:
        return time.perf_counter() - self.start

    def write(self, record: Record) -> None:
        self.out.write(json.dumps(record) + "\n")
        self.out.flush()


plan = Plan()


class Client(FastHttpUser):
    """One request at a time, the next when that has ended."""

    connection_timeout = 60.0
    network_timeout = 600.0

    @task
    def ask(self) -> None:
        """Send the next arrival at its time."""
        plan.begun.wait()
        arrival = plan.take()
        if arrival is None:
            raise StopUser
        gevent.sleep(max(0.0, arrival["at"] - plan.clock()))
        plan.write(self.send(arrival))
        plan.answered += 1
        if plan.answered == len(plan.arrivals):
            # By another greenlet: quitting kills the users, and this is one.
            gevent.spawn(self.environment.runner.quit)

    def send(self, arrival: Record) -> Record:
        # A connection each: one that the server has just closed for being idle would be an error
        # of the client's making.
        headers = {"Connection": "close"}
        if key := plan.keys.get(arrival["key"]):
            headers["Authorization"] = f"Bearer {key}"
        record: Record = {"at": arrival["at"], "phase": arrival["phase"], "key": arrival["key"]}
        record["sent"] = plan.clock()
        with self.client.post(
            PATH,
            json=arrival["body"],
            headers=headers,
            stream=True,
            catch_response=True,
            name=arrival["phase"],
        ) as response:
            record["status"] = response.status_code
            try:
                if response.status_code == 200:
                    # Parsing waits until the stream has ended: the engine has the same cores.
                    lines = list(self.lines(response))
                    record |= read(lines, arrival["body"])
                else:
                    record["retry_after"] = response.headers.get("retry-after")
                    record["error"] = error_of(response)
            except Exception as error:  # noqa: BLE001 (any failure is a record)
                record["error"] = f"{type(error).__name__}: {error}"
            if record.get("error"):
                response.failure(record["error"])
            else:
                response.success()
        record["ended"] = plan.clock()
        return record

    @staticmethod
    def lines(response: Any) -> Iterator[tuple[float, bytes]]:
        while line := response.stream.readline(b"\n"):
            yield plan.clock(), bytes(line)


def error_of(response: Any) -> str:
    """The code in OpenAI's envelope, or that there was no answer at all."""
    if not response.status_code:
        return f"no answer: {response.error}"
    try:
        error = json.loads(response.content)["error"]
        return str(error.get("code") or error.get("type"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"not an error in OpenAI's shape: {bytes(response.content or b'')[:100]!r}"


def read(lines: list[tuple[float, bytes]], body: Record) -> Record:
    """When the first and the last token came, how many there were, and whether all is there."""
    first = last = None
    tokens = 0
    receipt: Record | None = None
    done = False
    for at, line in lines:
        if line.startswith(b"data: [DONE]"):
            done = True
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if "error" in chunk:
            return {"error": f"the stream broke off: {chunk['error']}"}
        receipt = chunk.get("steering") or receipt
        if any(choice["delta"].get("content") for choice in chunk["choices"]):
            first, last = first or at, at
        if chunk.get("usage"):
            tokens = chunk["usage"]["completion_tokens"]
    found = {"first": first, "last": last, "tokens": tokens}
    if not done or tokens != body["max_tokens"]:
        return {**found, "error": f"cut: {tokens} of {body['max_tokens']} tokens, done: {done}"}
    asked = [vector["id"] for vector in body.get("steering", {}).get("vectors", ())]
    steered = {v["id"]: v["steered_tokens"] for v in (receipt or {}).get("vectors", ())}
    if list(steered) != asked or not all(steered.values()):
        return {**found, "error": f"asked for {asked}, the receipt says {steered}"}
    return {**found, "steered": bool(asked)}


@events.spawning_complete.add_listener
def _begin(user_count: int, **_: Any) -> None:
    if not plan.begun.is_set():
        plan.begin()
