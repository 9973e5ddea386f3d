"""One attack of each kind on the shared server, and those who ask beside and after them.

`make attack` does it 500 times, with a server without a limit on doses.
"""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from bench.serving.attack_kinds import KINDS, Attack, attack, files
from tests.support.http.client import Client

VICTIMS = 6


def strike(http: httpx.Client, one: Attack) -> int:
    if not one.body.get("stream"):
        return http.post(one.path, json=one.body).status_code
    with http.stream("POST", one.path, json=one.body) as answer:
        for n, _ in enumerate(answer.iter_lines()):
            if n == one.leaves_after:
                break
        return answer.status_code


def test_nobody_suffers_from_another_requests_numbers(client: Client) -> None:
    names = files()
    for name, data in names.items():
        assert client.upload(data, name).status_code in (200, 201)

    def ask(n: int) -> dict[str, Any]:
        body = {"model": "smollm2", "prompt": f"{n} boats pass", "max_tokens": 6, "logprobs": 1}
        answer = client.http.post("/v1/completions", json={**body, "temperature": 0})
        assert answer.status_code == 200, answer.text
        choice: dict[str, Any] = answer.json()["choices"][0]
        return choice

    before = [ask(n) for n in range(VICTIMS)]
    attacks = [attack(kind, random.Random(kind)) for kind in range(len(KINDS))]
    with ThreadPoolExecutor(8) as pool:
        statuses = [pool.submit(strike, client.http, one) for one in attacks]
        beside = list(pool.map(ask, range(VICTIMS)))
        assert max(one.result() for one in statuses) < 500
    for answers in (beside, [ask(n) for n in range(VICTIMS)]):
        for answer, expected in zip(answers, before, strict=True):
            assert answer["text"] == expected["text"]
            probabilities = zip(
                answer["logprobs"]["token_logprobs"],
                expected["logprobs"]["token_logprobs"],
                strict=True,
            )
            assert all(abs(a - b) < 1e-3 for a, b in probabilities)
    for name in names:
        client.http.delete(f"/v1/steering/vectors/{name}")
    for job in client.http.get("/v1/steering/jobs").json()["data"]:
        client.http.delete(f"/v1/steering/jobs/{job['id']}")
