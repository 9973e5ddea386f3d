"""A client that leaves takes its work along, however much of it there was."""

from tests.support.http.client import Client, completion_body

PROMPTS, EACH = 30, 1000


def finished(client: Client) -> float:
    """Requests that came to the end of their answer."""
    lines = client.http.get("/metrics").text.splitlines()
    found = [
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("vllm:request_success_total{") and 'finished_reason="length"' in line
    ]
    assert found
    return sum(found)


def test_a_call_of_thirty_heavy_prompts_ends_with_its_client(client: Client, rnd: str) -> None:
    prompts = [" ".join(f"{n}th {k}" for k in range(12)) for n in range(PROMPTS)]
    schedule = [0.001 * k for k in range(EACH)]
    body = completion_body(
        prompts,
        max_tokens=EACH,
        ignore_eos=True,
        stream=True,
        steering={"vectors": [{"id": rnd, "positions": "all", "schedule": schedule}]},
    )
    assert client.chat(max_tokens=1).status_code == 200
    before, tokens = finished(client), client.metric("vllm:generation_tokens_total")
    with client.http.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        next(answer.iter_lines())
    # Its answer comes behind the step that is under way.
    assert client.chat(max_tokens=4, ignore_eos=True).status_code == 200
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
        assert client.metric(name) == 0
    assert finished(client) == before + 1
    assert client.metric("vllm:generation_tokens_total") - tokens < PROMPTS * EACH / 10
