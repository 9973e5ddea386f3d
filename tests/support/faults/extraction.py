"""An extraction that takes a while, and how it ends."""

from typing import Any

from tests.support.faults.deployment import VECTORS, until
from tests.support.http.client import Client

JOBS = "/v1/steering/jobs"
TEXTS = [f"Text number {n} of many, about the weather in the hills." for n in range(300)]
ENDED = ("succeeded", "failed", "cancelled")


def request(name: str, texts: int = len(TEXTS), **fields: Any) -> dict[str, Any]:
    """What to ask for: so many texts a side."""
    return {
        "name": name,
        "method": "mean_difference",
        "positive": [f"{text} It was lovely." for text in TEXTS[:texts]],
        "negative": [f"{text} It was dreadful." for text in TEXTS[:texts]],
        **fields,
    }


def begin(client: Client, name: str, texts: int = len(TEXTS), **fields: Any) -> str:
    """The job's id."""
    answer = client.http.post(f"{VECTORS}/extract", json=request(name, texts, **fields))
    assert answer.status_code == 202, answer.text
    job: str = answer.json()["id"]
    return job


def look(client: Client, job: str) -> dict[str, Any]:
    answer = client.http.get(f"{JOBS}/{job}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def is_at(client: Client, job: str, texts: int) -> None:
    """Return when it has captured so many."""
    until(lambda: look(client, job)["progress"]["done"] >= texts, 240)


def end(client: Client, job: str) -> dict[str, Any]:
    """The job when it has ended."""

    def ended() -> dict[str, Any] | None:
        found = look(client, job)
        return found if found["status"] in ENDED else None

    found: dict[str, Any] = until(ended, 300, lambda: str(look(client, job)))
    return found
