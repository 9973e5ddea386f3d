"""Servers of several processes answer as one plain server does, and share vectors and rows.

A server of two data parallel replicas has two API server processes as well: that is vLLM's default.
"""

import json
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench.receipts import Usage, steered_tokens
from steersman.steering.plan.settings import default_home
from steersman.vectors.demo.model import prepare_model
from tests.support.matrix import judge
from tests.support.matrix.http_asks import (
    CHAT,
    COMPLETION,
    TOLERANCE,
    VECTORS,
    Answer,
    Ask,
    asks,
    difference,
    make_vector,
    put,
)
from tests.support.matrix.http_fleet import Door, Fleet, fleet
from tests.support.matrix.results import way

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(1800)]
WIDE = 5e-4
"""A golden answer led by less than this could be another text in another batch."""


def sample(text: str, name: str) -> str:
    """The value of the metric that `name`, a pattern, matches in a scrape."""
    match = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert match, name
    return match[1]


@pytest.fixture(scope="package")
def demo_model() -> Path:
    return prepare_model(default_home(), lambda line: print(line, file=sys.stderr))


@pytest.fixture(scope="package")
def golden(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one API server with one engine answers, asked one thing at a time; and its norms."""
    with fleet(demo_model, tmp_path_factory.mktemp("plain")) as plain:
        door = plain.each[0]
        for name, content in VECTORS.items():
            assert door.upload(name, content).status_code == 201
        answers = {ask.name: put(door, ask) for ask in asks()}
        assert min(answer.margin for answer in answers.values()) > WIDE
        texts = {answer.text for name, answer in answers.items() if name.startswith(CHAT)}
        assert len(texts) > 2, "steering changes nothing here"
        for name, answer in answers.items():
            # Responses have no margins here, but are the chats' texts over again.
            if name.startswith("/v1/responses"):
                assert answer.text == answers[name.replace("/v1/responses", CHAT)].text
        return {"answers": answers, "norms": _norms(door)}


def test_two_api_servers(
    demo_model: Path, golden: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with way("two API server processes (HTTP)") as row:
        folder = tmp_path_factory.mktemp("processes")
        options = ("--api-server-count", "2")
        with fleet(demo_model, folder, options, processes=2, doors=8) as found:
            row.steered(examine(found, golden, engines=1))


def test_two_replicas(
    demo_model: Path, golden: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with way("data parallel 2 with two API server processes (HTTP)") as row:
        folder = tmp_path_factory.mktemp("replicas")
        options = ("--data-parallel-size", "2")
        with fleet(demo_model, folder, options, processes=2, replicas=2, doors=4) as found:
            row.steered(examine(found, golden, engines=2))


def examine(found: Fleet, golden: dict[str, Any], engines: int) -> str:
    """Everything that must hold of one server of several processes; in words, what was seen."""
    assert len({door.pid for door in found.each}) == 2
    for door in found.each:
        assert _norms(door) == pytest.approx(golden["norms"], rel=1e-3), "calibrated differently"
    vectors_are_everywhere_at_once(found)
    for name, content in VECTORS.items():
        assert found.each[0].upload(name, content).status_code == 201
    before = found.metrics()
    worst, steered, tokens = answers_are_the_plain_servers(found, golden["answers"])
    metrics_add_up(found, before, steered, tokens, engines)
    neighbours_are_untouched(found, golden["answers"])
    rows_are_shared(found)
    one_of_many_uploads_wins(found)
    assert found.settled("steering_bank_rows_used", 0)
    return f"answers on every process and replica, to a plain server's: {judge.words(worst)}"


def answers_are_the_plain_servers(
    found: Fleet, golden: dict[str, Answer]
) -> tuple[float, int, int]:
    """Every question through every process and replica, those at the same time: the largest
    difference, the number of steered requests, and the steered tokens of their receipts."""

    def all_asks(turn: int, door: Door) -> list[tuple[Ask, Answer]]:
        questions = asks()
        cut = turn * len(questions) // len(found.each)
        return [(ask, put(door, ask)) for ask in questions[cut:] + questions[:cut]]

    with ThreadPoolExecutor(len(found.each)) as pool:
        turns = range(len(found.each))
        answers = [x for some in pool.map(all_asks, turns, found.each) for x in some]
    receipts = [answer.receipt for _, answer in answers if answer.receipt]
    worst = max(difference(golden[ask.name], answer) for ask, answer in answers)
    assert worst <= TOLERANCE
    return worst, len(receipts), sum(v["steered_tokens"] for r in receipts for v in r["vectors"])


def metrics_add_up(
    found: Fleet, before: dict[str, float], steered: int, tokens: int, engines: int
) -> None:
    """Any process's scrape tells of all of them, and every engine has had work."""
    # A stream is counted when it has been closed, a moment after its last chunk.
    completed = 'steering_requests_total{outcome="completed",source="request"}'
    assert found.settled(completed, before[completed] + steered)
    for door in found.each:
        text = door.get("/metrics").text
        for name, grown in (
            (completed, steered),
            ("steering_tokens_total", tokens),
        ):
            value = float(sample(text, re.escape(name)))
            assert value == before[name] + grown, name
        assert sample(text, "steering_library_vectors") == "2.0"
        assert sample(text, "steering_bank_rows_total") == "16.0"
        by_engine = re.compile(r'(?m)^vllm:generation_tokens_total{engine="(\d)",.*} (\S+)$')
        served = dict(by_engine.findall(text))
        assert len(served) == engines
        assert all(float(tokens) > 0 for tokens in served.values()), "an engine had nothing to do"


def vectors_are_everywhere_at_once(found: Fleet) -> None:
    """An upload, a swap and a deletion hold for the very next request, whoever takes it."""
    assert found.each[0].upload("kept", make_vector(50)).status_code == 201
    kept = found.each[0].get("/v1/steering/vectors/kept").json()["digest"]
    for turn, host in enumerate(found.each):
        name = f"fresh{turn}"
        assert host.upload(name, make_vector(60 + turn)).status_code == 201
        own = host.get(f"/v1/steering/vectors/{name}").json()["digest"]
        assert {_used(door, name) for door in found.each} == {own}
        assert host.patch(f"/v1/steering/vectors/{name}", json={"digest": kept}).status_code == 200
        assert {_used(door, name) for door in found.each} == {kept}
        with ExitStack() as running:
            body = _completion(name, max_tokens=60, ignore_eos=True)
            streams = [running.enter_context(d[1].stream(COMPLETION, body)) for d in _pairs(found)]
            for stream in streams:
                next(stream)
            assert host.delete(f"/v1/steering/vectors/{name}").status_code == 200
            for door in found.each:
                gone = door.post(COMPLETION, json=_completion(name))
                assert gone.status_code == 400
                assert gone.json()["error"]["code"] == "vector_not_found"
            for stream in streams:
                # It was in flight, so it ends with the vector that it began with.
                last = [json.loads(event) for event in stream][-1]
                assert last["steering"]["vectors"][0]["digest"] == kept
                assert last["steering"]["vectors"][0]["steered_tokens"] == 60
    assert found.each[-1].delete("/v1/steering/vectors/kept").status_code == 200


def neighbours_are_untouched(found: Fleet, golden: dict[str, Answer]) -> None:
    """Unsteered answers while every engine steers others, which outlast them."""
    unsteered = [
        ask for ask in asks() if "steering" not in ask.body and ask.path != "/v1/responses"
    ]
    body = _completion("one", max_tokens=300, ignore_eos=True)
    over = threading.Event()
    with ExitStack() as running:
        streams = [running.enter_context(d[1].stream(COMPLETION, body)) for d in _pairs(found)]
        for stream in streams:
            next(stream)

        def read(stream: Iterator[str]) -> tuple[bool, str]:
            events = [(over.is_set(), event) for event in stream]
            return events[-1]

        with ThreadPoolExecutor(2 * len(streams)) as pool:
            readers = [pool.submit(read, stream) for stream in streams]
            askers = [pool.submit(_compare, door, unsteered, golden) for door in found.each]
            assert max(asker.result() for asker in askers) <= TOLERANCE
            over.set()
            for reader in readers:
                outlasted, last = reader.result()
                assert outlasted, "the steered neighbours had ended before the unsteered answered"
                assert json.loads(last)["steering"]["vectors"][0]["steered_tokens"] == 300


def rows_are_shared(found: Fleet) -> None:
    """More vectors at once than the bank has rows: requests wait, whichever process took them."""
    names = [f"many{n}" for n in range(12)]
    for n, name in enumerate(names):
        assert found.each[n % len(found.each)].upload(name, make_vector(100 + n)).status_code == 201

    def ask(turn: int, door: Door) -> tuple[int, dict[str, Any]]:
        body = _completion(names[turn % len(names)], max_tokens=24, ignore_eos=True)
        answer = door.post(COMPLETION, json=body)
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(len(found.all)) as pool:
        answers = list(pool.map(ask, range(len(found.all)), found.all))
    assert len(answers) > len(names)
    for status, answer in answers:
        assert status == 200, answer
        assert answer["steering"]["vectors"][0]["steered_tokens"] == 24
    for name in names:
        assert found.each[0].delete(f"/v1/steering/vectors/{name}").status_code == 200


def one_of_many_uploads_wins(found: Fleet) -> None:
    """Different vectors under one name, through all processes at once: one is taken."""

    def upload(turn: int, door: Door) -> int:
        return door.upload("contested", make_vector(200 + turn)).status_code

    with ThreadPoolExecutor(len(found.all)) as pool:
        statuses = sorted(pool.map(upload, range(len(found.all)), found.all))
    assert statuses == [201] + [409] * (len(found.all) - 1)
    assert len({_used(door, "contested") for door in found.each}) == 1


def _compare(door: Door, questions: list[Ask], golden: dict[str, Answer]) -> float:
    """Largest difference of answers through `door` from golden ones."""
    return max(difference(golden[ask.name], put(door, ask)) for ask in questions)


def _pairs(found: Fleet) -> list[list[Door]]:
    """Two doors for each process and replica: one holds a stream while the other asks."""
    return [doors[:2] for doors in found.doors.values()]


def _completion(name: str, **fields: Any) -> dict[str, Any]:
    steering = {"vectors": {name: 1.0}}
    body = {"model": "smollm2", "prompt": "My neighbour says that", "temperature": 0}
    return {**body, "max_tokens": 2, "steering": steering, **fields}


def _used(door: Door, name: str) -> str:
    """The digest that a request through `door` was steered with, its receipt checked."""
    body = _completion(name)
    response = door.post(COMPLETION, json=body)
    assert response.status_code == 200, response.text
    whole = response.json()
    (vector,) = whole["steering"]["vectors"]
    assert vector["steered_tokens"] == steered_tokens("generation", Usage.read(whole["usage"]))
    return str(vector["digest"])


def _norms(door: Door) -> dict[str, float]:
    norms: dict[str, float] = door.get("/v1/steering/capabilities").json()["median_norms"]
    assert norms, "not calibrated"
    return norms
