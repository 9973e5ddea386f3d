"""Whether a library is whole: as its clients see it, and on its disk."""

from pathlib import Path
from typing import Any

from steersman.vectors.file.format import read_vector
from steersman.vectors.library.disk import TEMP_PREFIX
from tests.support.faults.deployment import VECTORS
from tests.support.http.client import Client


def listed(client: Client) -> dict[str, str]:
    """Name and digest of every vector in the list; each one's content is what its digest says."""
    answer = client.http.get(VECTORS, params={"limit": 1000})
    assert answer.status_code == 200, answer.text
    found = {vector["id"]: vector["digest"] for vector in answer.json()["data"]}
    for name, digest in found.items():
        content = client.http.get(f"{VECTORS}/{name}/content")
        assert content.status_code == 200, content.text
        assert read_vector(content.content).digest == digest
    return found


def rests(library: Path) -> list[Path]:
    """Temporary files in the library, the jobs' included."""
    return sorted(library.rglob(f"{TEMP_PREFIX}*"))


def error_of(answer: Any, status: int) -> dict[str, Any]:
    """The error in `answer`, in OpenAI's shape and with this status."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def steered(client: Client, name: str, coefficient: float = 1.0, **fields: Any) -> dict[str, Any]:
    """The receipt's part about one vector, after a chat that it steered."""
    answer = client.chat(max_tokens=4, steering={"vectors": {name: coefficient}}, **fields)
    assert answer.status_code == 200, answer.text
    part: dict[str, Any] = answer.json()["steering"]["vectors"][0]
    return part
