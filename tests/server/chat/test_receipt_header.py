"""The header stays short, in ASCII, and JSON, however many vectors there are."""

import json
from typing import Any

import pytest

from steersman.server.chat.receipt import MAX_LENGTH, header


def receipt(vectors: int, layers: int, name: str = "cheerful") -> dict[str, Any]:
    one = {
        "id": name,
        "digest": "sha256:" + "0" * 64,
        "site": "resid_post",
        "layers": list(range(layers)),
        "coefficient": 1.5,
        "positions": "generation",
        "relative_dose": {str(layer): 0.1234 for layer in range(layers)},
    }
    return {"vectors": [one] * vectors, "dynamic": False, "source": "request"}


def test_a_usual_one_is_whole() -> None:
    said = receipt(2, 2)
    assert json.loads(header(said)) == said


@pytest.mark.parametrize("vectors", [1, 8, 32, 200])
@pytest.mark.parametrize("layers", [1, 80, 400])
def test_it_is_never_too_long(vectors: int, layers: int) -> None:
    text = header(receipt(vectors, layers, "ü\n" * 20))
    assert len(text) <= MAX_LENGTH
    assert text.isascii()
    assert text.isprintable()
    said = json.loads(text)
    assert said["source"] == "request"
    assert said.get("truncated", False) == (said != receipt(vectors, layers, "ü\n" * 20))
